"""The second generation: connects, subscribes, publishes with QoS 0 and 1 and leaves.

Arguments: how to get in (certificate, websocket, authorizer), and the version of MQTT (3 or 5).
"""

import sys
import threading

from awscrt import auth, mqtt, mqtt5
from awsiot import mqtt5_client_builder, mqtt_connection_builder

from endpoint import WAIT_SECONDS, Endpoint, Inbox, Steps

endpoint = Endpoint()
entrance, version = sys.argv[2:]
inbox = Inbox()
is_mqtt5 = version == "5"
builder = mqtt5_client_builder if is_mqtt5 else mqtt_connection_builder
common = {
    "endpoint": "localhost",
    "client_id": "pubsub",
    "ca_filepath": endpoint.ca,
}


def build(**more):
    if entrance == "certificate":
        return builder.mtls_from_path(
            endpoint.certificate, endpoint.key, port=endpoint.mqtt_port, **common, **more
        )
    if entrance == "websocket":
        provider = auth.AwsCredentialsProvider.new_static(
            endpoint.access_key, endpoint.secret_key, endpoint.session_token
        )
        return builder.websockets_with_default_aws_signing(
            region="us-east-1",
            credentials_provider=provider,
            port=endpoint.shared_port,
            **common,
            **more,
        )
    connect = builder.direct_with_custom_authorizer
    if entrance == "websocket_authorizer":
        connect = builder.websockets_with_custom_authorizer
    return connect(
        auth_username="fisher",
        auth_authorizer_name="gate",
        auth_authorizer_signature="c2ln+/=",
        auth_password=b"s3cret",
        auth_token_key_name="tok",
        auth_token_value="t1",
        port=endpoint.shared_port,
        **common,
        **more,
    )


def talk_3():
    connection = build()
    answer = connection.connect().result(WAIT_SECONDS)
    Steps.say("connected", session_present=answer["session_present"])
    subscribed, _ = connection.subscribe(
        "sdk/test/Python",
        mqtt.QoS.AT_LEAST_ONCE,
        lambda topic, payload, **_: inbox.messages.put((topic, payload.decode())),
    )
    Steps.say("subscribed", qos=int(subscribed.result(WAIT_SECONDS)["qos"]))
    connection.publish("sdk/test/Python", "m0", mqtt.QoS.AT_MOST_ONCE)
    published, _ = connection.publish("sdk/test/Python", "m1", mqtt.QoS.AT_LEAST_ONCE)
    published.result(WAIT_SECONDS)
    Steps.say("received", messages=inbox.take(2))
    Steps.say_and_wait("online")
    connection.disconnect().result(WAIT_SECONDS)


def talk_5():
    connected = threading.Event()
    stopped = threading.Event()
    settings = {}

    def on_connected(event):
        settings["maximum_qos"] = int(event.negotiated_settings.maximum_qos)
        settings["server_keep_alive"] = event.negotiated_settings.server_keep_alive_sec
        settings["session_present"] = event.connack_packet.session_present
        connected.set()

    def on_publish(event):
        packet = event.publish_packet
        inbox.messages.put((packet.topic, packet.payload.decode()))

    client = build(
        on_publish_received=on_publish,
        on_lifecycle_connection_success=on_connected,
        on_lifecycle_stopped=lambda _: stopped.set(),
    )
    client.start()
    if not connected.wait(WAIT_SECONDS):
        sys.exit("no connection")
    Steps.say("connected", **settings)
    filters = [mqtt5.Subscription("sdk/test/Python", mqtt5.QoS.AT_LEAST_ONCE)]
    suback = client.subscribe(mqtt5.SubscribePacket(filters)).result(WAIT_SECONDS)
    Steps.say("subscribed", qos=int(suback.reason_codes[0]))
    for payload, qos in [("m0", 0), ("m1", 1)]:
        packet = mqtt5.PublishPacket(
            topic="sdk/test/Python", qos=mqtt5.QoS(qos), payload=payload
        )
        client.publish(packet).result(WAIT_SECONDS)
    Steps.say("received", messages=inbox.take(2))
    Steps.say_and_wait("online")
    client.stop()
    stopped.wait(WAIT_SECONDS)


talk_5() if is_mqtt5 else talk_3()
Steps.say("done")

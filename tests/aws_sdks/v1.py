"""How the scripts make a client of the first generation."""

from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTClient

# The SDK takes a WebSocket's host only when it looks like an endpoint.
WEBSOCKET_HOST = "abc123.iot.us-east-1.amazonaws.com"


def configure(client, endpoint, websocket=False):
    if websocket:
        client.configureEndpoint(WEBSOCKET_HOST, 443)
        client.configureCredentials(endpoint.ca)
        client.configureIAMCredentials(
            endpoint.access_key, endpoint.secret_key, endpoint.session_token
        )
        socket_factory(client, endpoint.socket_factory(endpoint.shared_port))
    else:
        client.configureEndpoint("localhost", endpoint.mqtt_port)
        client.configureCredentials(endpoint.ca, endpoint.key, endpoint.certificate)
    client.configureConnectDisconnectTimeout(30)
    client.configureMQTTOperationTimeout(30)
    return client


def socket_factory(client, factory):
    # A shadow client has no such call of its own; its MQTT connection has.
    getattr(client, "getMQTTConnection", lambda: client)().configureSocketFactory(factory)


def mqtt_client(endpoint, client_id, websocket=False, **options):
    client = AWSIoTMQTTClient(client_id, useWebsocket=websocket, **options)
    return configure(client, endpoint, websocket)

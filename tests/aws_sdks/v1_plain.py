"""Connects, subscribes, publishes with QoS 0 and 1 and leaves: the SDK's basicPubSub."""

import sys

from endpoint import Endpoint, Inbox, Steps
from v1 import mqtt_client

endpoint = Endpoint()
websocket = "websocket" in sys.argv[2:]
inbox = Inbox()
client = mqtt_client(endpoint, "basicPubSub", websocket)
Steps.say("connected", ok=client.connect())
Steps.say("subscribed", ok=client.subscribe("sdk/test/Python", 1, inbox.v1))
client.publish("sdk/test/Python", "m0", 0)
client.publish("sdk/test/Python", "m1", 1)
Steps.say("received", messages=inbox.take(2))
Steps.say_and_wait("online")
client.unsubscribe("sdk/test/Python")
client.disconnect()
Steps.say("done")

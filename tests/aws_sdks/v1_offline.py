"""Publishes while there is no connection, with a queue of five, and lets the SDK drain it."""

import sys
import threading

from AWSIoTPythonSDK.exception.AWSIoTExceptions import publishQueueFullException
from AWSIoTPythonSDK.MQTTLib import DROP_NEWEST, DROP_OLDEST

from endpoint import WAIT_SECONDS, Endpoint, Inbox, Steps
from v1 import mqtt_client

endpoint = Endpoint()
behaviour = {"newest": DROP_NEWEST, "oldest": DROP_OLDEST}[sys.argv[2]]
online, offline = threading.Event(), threading.Event()
client = mqtt_client(endpoint, "offline")
client.configureAutoReconnectBackoffTime(1, 4, 20)
client.configureOfflinePublishQueueing(5, behaviour)
client.configureDrainingFrequency(2)
client.onOnline = online.set
client.onOffline = offline.set
client.connect()
inbox = Inbox()
client.subscribe("t/a", 1, inbox.v1)
client.subscribe("t/b", 0, inbox.v1)
online.clear()
Steps.say_and_wait("online")
offline.wait(WAIT_SECONDS)
results = []
for number in range(1, 8):
    try:
        results.append(client.publish(f"o/{number}", "x", number % 2))
    except publishQueueFullException:
        results.append("full")
Steps.say_and_wait("queued", results=results)
online.wait(WAIT_SECONDS)
# Goes on once one message has left: the queue has room for this one then.
Steps.say_and_wait("back")
client.publish("o/live", "x", 1)
# The subscriptions are there again, without the script's doing.
Steps.say("received", messages=inbox.take(2))
client.disconnect()
Steps.say("done")

"""The jobs client of the first generation: asks, starts, describes, ends."""

import json

from AWSIoTPythonSDK.core.jobs.thingJobManager import (
    jobExecutionStatus,
    jobExecutionTopicReplyType,
    jobExecutionTopicType,
)
from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTThingJobsClient

from endpoint import Endpoint, Inbox, Steps
from v1 import configure

endpoint = Endpoint()
client = AWSIoTMQTTThingJobsClient("jobs-client", "Bot", QoS=1)
configure(client, endpoint)
client.connect()
kinds, replies = jobExecutionTopicType, jobExecutionTopicReplyType
inbox = Inbox()


def on_message(_client, _userdata, message):
    inbox.messages.put((message.topic, json.loads(message.payload)))


for kind in [
    kinds.JOB_GET_PENDING_TOPIC,
    kinds.JOB_START_NEXT_TOPIC,
    kinds.JOB_DESCRIBE_TOPIC,
    kinds.JOB_UPDATE_TOPIC,
]:
    job = "+" if kind in (kinds.JOB_DESCRIBE_TOPIC, kinds.JOB_UPDATE_TOPIC) else None
    for reply in [replies.JOB_ACCEPTED_REPLY_TYPE, replies.JOB_REJECTED_REPLY_TYPE]:
        client.createJobSubscription(on_message, kind, reply, job)
client.createJobSubscription(on_message, kinds.JOB_NOTIFY_NEXT_TOPIC)


def tell(step):
    topic, body = inbox.next()
    Steps.say(step, topic=topic, body=body)


Steps.say_and_wait("listening")
tell("notified")
client.sendJobsQuery(kinds.JOB_GET_PENDING_TOPIC)
tell("pending")
client.sendJobsStartNext(statusDetails={"by": "test"}, stepTimeoutInMinutes=5)
tell("started")
client.sendJobsDescribe("job1")
tell("described")
client.sendJobsUpdate(
    "job1", jobExecutionStatus.JOB_EXECUTION_SUCCEEDED, expectedVersion=2, executionNumber=1
)
for _ in range(2):
    tell("updated")
client.disconnect()
Steps.say("done")

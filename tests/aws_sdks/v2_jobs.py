"""The jobs client of the second generation."""

import threading

from awscrt import mqtt_request_response as request_response
from awsiot import ServiceStreamOptions, V2ServiceException, iotjobs

from endpoint import WAIT_SECONDS, Endpoint, Inbox, Steps
from v2 import Connection

endpoint = Endpoint()
connection = Connection(endpoint, "jobs-client")
jobs = iotjobs.IotJobsClientV2(connection.client, request_response.ClientOptions(4, 4, 30))
changes = Inbox()
listening = threading.Event()
stream = jobs.create_next_job_execution_changed_stream(
    iotjobs.NextJobExecutionChangedSubscriptionRequest(thing_name="Bot"),
    ServiceStreamOptions(
        incoming_event_listener=changes.messages.put,
        subscription_status_listener=lambda _: listening.set(),
    ),
)
stream.open()
listening.wait(WAIT_SECONDS)
Steps.say_and_wait("listening")
Steps.say("notified", job=changes.next().execution.job_id)
pending = jobs.get_pending_job_executions(
    iotjobs.GetPendingJobExecutionsRequest(thing_name="Bot")
).result(WAIT_SECONDS)
Steps.say("pending", jobs=[job.job_id for job in pending.queued_jobs])
started = jobs.start_next_pending_job_execution(
    iotjobs.StartNextPendingJobExecutionRequest(thing_name="Bot")
).result(WAIT_SECONDS)
Steps.say("started", job=started.execution.job_id, document=started.execution.job_document)


def update(expected_version):
    request = iotjobs.UpdateJobExecutionRequest(
        thing_name="Bot",
        job_id=started.execution.job_id,
        status="SUCCEEDED",
        expected_version=expected_version,
    )
    return jobs.update_job_execution(request).result(WAIT_SECONDS)


try:
    update(77)
except V2ServiceException as error:
    Steps.say("refused", code=error.modeled_error.code)
update(started.execution.version_number)
Steps.say("succeeded", is_last=changes.next().execution is None)
connection.close()
Steps.say("done")

"""The shadow client of the second generation: a named shadow by requests and streams."""

import threading

from awscrt import mqtt_request_response as request_response
from awsiot import ServiceStreamOptions, V2ServiceException, iotshadow

from endpoint import WAIT_SECONDS, Endpoint, Inbox, Steps
from v2 import Connection

endpoint = Endpoint()
connection = Connection(endpoint, "shadow-client")
shadows = iotshadow.IotShadowClientV2(connection.client, request_response.ClientOptions(4, 4, 30))
named = {"thing_name": "Bot", "shadow_name": "config"}
deltas = Inbox()
listening = threading.Event()
stream = shadows.create_named_shadow_delta_updated_stream(
    iotshadow.NamedShadowDeltaUpdatedSubscriptionRequest(**named),
    ServiceStreamOptions(
        incoming_event_listener=deltas.messages.put,
        subscription_status_listener=lambda _: listening.set(),
    ),
)
stream.open()
listening.wait(WAIT_SECONDS)
try:
    shadows.get_named_shadow(iotshadow.GetNamedShadowRequest(**named)).result(WAIT_SECONDS)
except V2ServiceException as error:
    Steps.say("get nothing", code=error.modeled_error.code, message=error.modeled_error.message)


def update(**sections):
    request = iotshadow.UpdateNamedShadowRequest(state=iotshadow.ShadowState(**sections), **named)
    return shadows.update_named_shadow(request).result(WAIT_SECONDS)


Steps.say("desire", version=update(desired={"p": 1}).version)
Steps.say_and_wait("delta", state=deltas.next().state)
Steps.say("delta of an application", state=deltas.next().state)
Steps.say("report", version=update(reported={"p": 2}).version)
document = shadows.get_named_shadow(iotshadow.GetNamedShadowRequest(**named)).result(WAIT_SECONDS)
Steps.say("get", desired=document.state.desired, reported=document.state.reported)
deleted = iotshadow.DeleteNamedShadowRequest(**named)
Steps.say_and_wait("delete", version=shadows.delete_named_shadow(deleted).result(WAIT_SECONDS).version)
connection.close()
Steps.say("done")

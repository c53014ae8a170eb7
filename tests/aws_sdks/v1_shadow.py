"""The shadow calls of the first generation, persistent or not, as ThingShadowEcho and its like make them."""

import json
import sys

from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTShadowClient

from endpoint import Endpoint, Inbox, Steps
from v1 import configure

endpoint = Endpoint()
entrance, persistence = sys.argv[2:]
is_websocket = entrance == "websocket"
client = AWSIoTMQTTShadowClient("shadow-client", useWebsocket=is_websocket)
configure(client, endpoint, is_websocket)
client.connect()
bot = client.createShadowHandlerWithName("Bot", persistence == "persistent")
answers, deltas = Inbox(), Inbox()


def ask(step, call, *document):
    """One call with its answer."""

    def answered(payload, status, token):
        answers.messages.put((status, json.loads(payload), token))

    token = call(*document, answered, 20)
    status, body, answered_token = answers.next()
    Steps.say(step, status=status, body=body, is_same_token=token == answered_token)


def state(**sections):
    return json.dumps({"state": sections})


ask("get nothing", bot.shadowGet)
bot.shadowRegisterDeltaCallback(
    lambda payload, status, _: deltas.messages.put((status, json.loads(payload)))
)
ask("desire", bot.shadowUpdate, state(desired={"p": 1}))
Steps.say("delta", message=deltas.next())
ask("report", bot.shadowUpdate, state(reported={"p": 1}))
ask("get", bot.shadowGet)
Steps.say_and_wait("listening")
Steps.say("delta of an application", message=deltas.next())
ask("delete", bot.shadowDelete)
ask("delete nothing", bot.shadowDelete)
bot.shadowUnregisterDeltaCallback()
client.disconnect()
Steps.say("done")

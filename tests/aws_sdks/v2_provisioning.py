"""Fleet provisioning of the second generation: a claim becomes a thing, which connects as itself."""

from awscrt import mqtt_request_response as request_response
from awsiot import V2ServiceException, iotidentity

from endpoint import WAIT_SECONDS, Endpoint, Steps
from v2 import Connection

endpoint = Endpoint()
claim = Connection(endpoint, "claim")
identity = iotidentity.IotIdentityClientV2(claim.client, request_response.ClientOptions(4, 4, 30))
keys = identity.create_keys_and_certificate(
    iotidentity.CreateKeysAndCertificateRequest()
).result(WAIT_SECONDS)
Steps.say("certificate", id=keys.certificate_id)


def register(template):
    request = iotidentity.RegisterThingRequest(
        template_name=template,
        certificate_ownership_token=keys.certificate_ownership_token,
        parameters={"SerialNumber": "7"},
    )
    return identity.register_thing(request).result(WAIT_SECONDS)


try:
    register("unknown")
except V2ServiceException as error:
    Steps.say("refused", status=error.modeled_error.status_code)
thing = register("fleet")
Steps.say("registered", name=thing.thing_name, configuration=thing.device_configuration)
claim.close()
device = Connection(
    endpoint, thing.thing_name, keys.certificate_pem.encode(), keys.private_key.encode()
)
Steps.say_and_wait("online")
device.close()
Steps.say("done")

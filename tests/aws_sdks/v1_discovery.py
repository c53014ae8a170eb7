"""Greengrass discovery of the first generation."""

from AWSIoTPythonSDK.core.greengrass.discovery.providers import DiscoveryInfoProvider
from AWSIoTPythonSDK.exception.AWSIoTExceptions import DiscoveryDataNotFoundException

from endpoint import Endpoint, Steps

endpoint = Endpoint()
provider = DiscoveryInfoProvider(
    endpoint.ca, endpoint.certificate, endpoint.key, "localhost", endpoint.https_port
)
try:
    provider.discover("Nobody")
except DiscoveryDataNotFoundException:
    Steps.say("nothing")
info = provider.discover("Bot")
core = info.getAllCores()[0]
Steps.say(
    "found",
    group=core.groupId,
    core=core.coreThingArn,
    hosts=[connectivity.host for connectivity in core.connectivityInfoList],
)
Steps.say("done")

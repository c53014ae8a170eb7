"""Publishes by HTTPS with a request that the second generation's signer signed, as boto3 does."""

import http.client
import io
import ssl
import sys

from awscrt import auth
from awscrt.http import HttpHeaders, HttpRequest

from endpoint import WAIT_SECONDS, Endpoint, Steps

endpoint = Endpoint()
path = sys.argv[2]
body = b"hello"


def signed(secret):
    request = HttpRequest(
        "POST",
        path,
        HttpHeaders([("host", "localhost"), ("content-length", str(len(body)))]),
        io.BytesIO(body),
    )
    provider = auth.AwsCredentialsProvider.new_static(
        endpoint.access_key, secret, endpoint.session_token
    )
    config = auth.AwsSigningConfig(
        algorithm=auth.AwsSigningAlgorithm.V4,
        signature_type=auth.AwsSignatureType.HTTP_REQUEST_HEADERS,
        credentials_provider=provider,
        region="us-east-1",
        service="iotdata",
        signed_body_header_type=auth.AwsSignedBodyHeaderType.NONE,
    )
    return auth.aws_sign_request(request, config).result(WAIT_SECONDS)


def send(request):
    context = ssl.create_default_context(cafile=endpoint.ca)
    connection = http.client.HTTPSConnection(
        "localhost", endpoint.https_port, timeout=WAIT_SECONDS, context=context
    )
    connection.request("POST", request.path, body, dict(request.headers))
    return connection.getresponse().status


Steps.say("accepted", status=send(signed(endpoint.secret_key)))
Steps.say("refused", status=send(signed("another secret")))
Steps.say("done")

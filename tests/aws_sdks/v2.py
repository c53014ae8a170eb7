"""How the scripts make a client of the second generation that speaks MQTT 5 with a certificate."""

import sys
import threading

from awsiot import mqtt5_client_builder

from endpoint import WAIT_SECONDS


class Connection:
    def __init__(self, endpoint, client_id, certificate=None, key=None):
        self.connected, self.stopped = threading.Event(), threading.Event()
        common = {
            "endpoint": "localhost",
            "port": endpoint.mqtt_port,
            "client_id": client_id,
            "ca_filepath": endpoint.ca,
            "on_lifecycle_connection_success": lambda _: self.connected.set(),
            "on_lifecycle_stopped": lambda _: self.stopped.set(),
        }
        if certificate is None:
            make, identity = mqtt5_client_builder.mtls_from_path, (endpoint.certificate, endpoint.key)
        else:
            make, identity = mqtt5_client_builder.mtls_from_bytes, (certificate, key)
        self.client = make(*identity, **common)
        self.client.start()
        if not self.connected.wait(WAIT_SECONDS):
            sys.exit(f"{client_id} did not connect")

    def close(self):
        self.client.stop()
        self.stopped.wait(WAIT_SECONDS)

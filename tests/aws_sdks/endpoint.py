"""What every script is told by the test that runs it, and how it answers."""

import json
import queue
import socket
import sys
import threading

WAIT_SECONDS = 30


class Endpoint:
    """The emulator's addresses and credentials, from the script's one argument."""

    def __init__(self):
        self.__dict__.update(json.loads(sys.argv[1]))

    def socket_factory(self, port):
        """A socket to the emulator, whatever host the SDK believes it connects to."""
        return lambda: socket.create_connection(("127.0.0.1", port), WAIT_SECONDS)


class Inbox:
    """Messages in the order in which the SDK hands them out."""

    def __init__(self):
        self.messages = queue.Queue()

    def v1(self, _client, _userdata, message):
        """A callback of the first generation."""
        self.messages.put((message.topic, message.payload.decode()))

    def next(self):
        return self.messages.get(timeout=WAIT_SECONDS)

    def take(self, count):
        return [self.next() for _ in range(count)]


class Steps:
    """Lets a script and its test take turns: the script says where it is, the test answers with a line."""

    lock = threading.Lock()

    @classmethod
    def say(cls, what, **more):
        with cls.lock:
            print(json.dumps({"step": what, **more}), flush=True)

    @classmethod
    def say_and_wait(cls, what, **more):
        cls.say(what, **more)
        if not sys.stdin.readline():
            sys.exit("the test is gone")

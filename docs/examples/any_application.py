"""
Run code that knows nothing of proxies through one: here Twisted's mail client.

python any_application.py RECIPIENT [MAIL SERVER] [PROXY]

PROXY is a client endpoint string, tcp:127.0.0.1:1080 unless given.
"""

import sys
from email.message import EmailMessage

from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react
from twisted.mail.smtp import sendmail

from txsocksx_ext import proxied_reactor


async def main(reactor, recipient, server="localhost:25", proxy="tcp:127.0.0.1:1080"):
    through = proxied_reactor(reactor, clientFromString(reactor, proxy))
    host, _, port = server.rpartition(":")
    message = EmailMessage()
    message["Subject"] = "Through a proxy"
    message.set_content("Hello.")
    delivered, _ = await sendmail(host, "sender@localhost", [recipient], message, port=int(port), reactor=through)
    print(f"delivered to {delivered} mailbox")


if __name__ == "__main__":
    react(main, sys.argv[1:])

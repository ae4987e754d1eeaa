"""
Fetch a page of an onion service that requires a client authorization key, with a tor that txtorcon controls.

python locked_onion.py http://ADDRESS.onion/ KEY_FILE [CONTROL]

CONTROL is a client endpoint string of tor's control port; the default is tcp:127.0.0.1:9051.
"""

import sys
from pathlib import Path
from urllib.parse import urlsplit

import treq
import txtorcon
from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react

from txsocksx_ext.errors import OnionClientAuthRequired, OnionClientAuthWrong
from txsocksx_ext.tor import add_client_authorization, web_agent


async def main(reactor, url, key_file, control="tcp:127.0.0.1:9051"):
    tor = await txtorcon.connect(reactor, clientFromString(reactor, control))
    agent = web_agent(tor)
    try:
        response = await treq.get(url, agent=agent)
    except OnionClientAuthRequired:
        print("the service requires a key: adding it to tor")
        await add_client_authorization(tor, urlsplit(url).hostname, Path(key_file).read_text())
        try:
            response = await treq.get(url, agent=agent)
        except OnionClientAuthWrong as error:
            raise SystemExit(f"Wrong key: {error}.") from None
    print(await response.text(), end="")


if __name__ == "__main__":
    react(main, sys.argv[1:])

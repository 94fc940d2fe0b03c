"""Prints the events of an application, and comes back by itself where it was.

    pip install -r requirements.txt
    python stream.py ws://127.0.0.1:8080/drogue-public-temperature

It signs in with the API key in CANOPY_USER and CANOPY_KEY, or with the OpenID token in the
file that CANOPY_TOKEN_FILE names. Somebody else keeps a fresh token there; it is read again
before each connection and before the token expires.
"""

import asyncio
import base64
import json
import os
import random
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, quote

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

MAX_MESSAGE = 16 << 20  # above what an edge sends
MAX_DELAY = 60  # seconds


def report(text):
    print(text, file=sys.stderr, flush=True)


def read_token():
    file = os.environ.get("CANOPY_TOKEN_FILE")
    return Path(file).read_text().strip() if file else None


def headers(token):
    user, key = os.environ.get("CANOPY_USER"), os.environ.get("CANOPY_KEY")
    if token:
        return {"Authorization": f"Bearer {token}"}
    if user and key:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()}
    return {}


def begin_behind(url, cursor):
    """The URL that goes on behind an event. A group keeps its place by itself."""
    query = url.partition("?")[2]
    if cursor is None or "group_id" in parse_qs(query):
        return url
    path = url.partition("?")[0]
    kept = [p for p in query.split("&") if p and not p.startswith("since=")]
    return path + "?" + "&".join([*kept, "since=" + quote(cursor)])


async def refresh(socket, token):
    """Sends a fresh token when three quarters of the old one's life are over."""
    while token:
        payload = token.split(".")[1]
        expires = json.loads(base64.urlsafe_b64decode(payload + "==="))["exp"]
        await asyncio.sleep(max(1, 0.75 * (expires - time.time())))
        token = read_token()
        await socket.send(json.dumps({"RefreshAccessToken": token}))


def is_too_big(error):
    """Says whether this client closed because a message was larger than MAX_MESSAGE."""
    if not isinstance(error, ConnectionClosed) or error.sent is None:
        return False
    return error.sent.code == 1009 and not error.rcvd_then_sent


def is_final(error):
    """Says whether coming back is of no use: see "Refusals" and "Close codes" in the README."""
    if is_too_big(error):
        return False
    if isinstance(error, InvalidStatus):
        return error.response.status_code < 429 or error.response.status_code == 431
    if isinstance(error, ConnectionClosed) and error.rcvd:
        return error.rcvd.code in (1002, 1007, 1009) or error.rcvd.reason == "Access withdrawn"
    return False


async def events(url):
    """Yields events, over as many connections as it takes. Ends only with an error."""
    cursor, failures = None, 0
    too_big = False  # the next event is, so it is read once without a limit and stepped over
    while True:
        try:
            token = read_token()
            async with connect(begin_behind(url, cursor), additional_headers=headers(token),
                               max_size=None if too_big else MAX_MESSAGE) as socket:
                report("connected")
                refresher = asyncio.create_task(refresh(socket, token))
                try:
                    while True:
                        message = await socket.recv()
                        event = json.loads(message)
                        if too_big:
                            report(f"stepped over an event of {len(message)} characters")
                        else:
                            yield event
                        cursor, failures = event.get("cursor"), 0
                        if too_big:
                            break
                finally:
                    refresher.cancel()
            too_big = False
        except (ConnectionClosed, InvalidHandshake, OSError) as error:
            if is_final(error):
                raise
            # A group sets aside by itself what its members cannot take.
            too_big = is_too_big(error) and cursor is not None and "group_id=" not in url
            # Chance, or all clients of an edge would come back in one moment.
            delay = min(MAX_DELAY, 2**failures) * random.uniform(1, 1.5)
            failures += 1
            report(f"{error}; again in {delay:.1f} s")
            await asyncio.sleep(delay)


def is_gap(event):
    """Tell whether the edge says that events may be missing; a device may choose that type, too."""
    named = event["type"] == "io.drogue.canopy.gap.v1" and event["source"] == "canopy:edge"
    return named and isinstance(event.get("data"), dict)


async def main(url):
    async for event in events(url):
        if is_gap(event):
            report("events may be missing: " + str(event["data"].get("message")))
        else:
            print(json.dumps(event), flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:2] or ["ws://127.0.0.1:8080/drogue-public-temperature"]))
    except KeyboardInterrupt:
        pass
    except (ConnectionClosed, InvalidStatus) as error:
        sys.exit(f"it ended: {error}")

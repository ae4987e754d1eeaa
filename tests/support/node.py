"""Node, the packages of npm, and a client and a proxy that speak TLS in Node."""

import json
import subprocess
import sys
from pathlib import Path

from support.programs import Program, need

FOLDER = Path(sys.prefix)
"""The folder in which ``make test-peers`` installs packages of npm: Node has to run there to import them."""


def version_of_package(name):
    """Return a function that returns the version of a package of npm."""
    return lambda: json.loads((FOLDER / "node_modules" / name / "package.json").read_text())["version"]


def run_node(script, *arguments, given=b""):
    """
    Run a JavaScript module (``import``, top-level ``await``), which finds its arguments in ``process.argv``.

    :param given: its standard input.
    """
    command = [need("node", "nodejs"), "--input-type=module", "--eval", script, "--", *map(str, arguments)]
    return subprocess.run(command, cwd=FOLDER, input=given, capture_output=True, timeout=60)


_NODE_COMMON = """
const tls = require('tls'), net = require('net'), fs = require('fs'), crypto = require('crypto');
const digest = data => crypto.createHash('sha256').update(data).digest('hex');
const version = process.argv[1] === 'TLS 1.2' ? 'TLSv1.2' : 'TLSv1.3';
function reader(socket) {
  let buffered = Buffer.alloc(0), wanted = null;
  const give = () => {
    if (wanted && buffered.length >= wanted.count) {
      const {count, resolve} = wanted;
      wanted = null;
      const part = buffered.subarray(0, count);
      buffered = buffered.subarray(count);
      resolve(part);
    }
  };
  socket.on('data', data => { buffered = Buffer.concat([buffered, data]); give(); });
  return {
    read: count => new Promise(resolve => { wanted = {count, resolve}; give(); }),
    toEnd: () => new Promise(resolve => socket.once('end', () => resolve(buffered))),
  };
}
"""

_NODE_CLIENT = """
// VERSION PORT TARGET_PORT FILE: send the file's content through the proxy, end, print what answers.
const [port, target, file] = process.argv.slice(2);
const socket = tls.connect({port, host: '127.0.0.1', rejectUnauthorized: false, allowHalfOpen: true,
                            minVersion: version, maxVersion: version}, async () => {
  const input = reader(socket);
  socket.write(Buffer.from([5, 1, 0]));
  await input.read(2);
  socket.write(Buffer.from([5, 1, 0, 1, 127, 0, 0, 1, target >> 8, target & 255]));
  await input.read(10);
  const ended = input.toEnd();
  socket.end(fs.readFileSync(file));
  process.stdout.write(await ended);
});
socket.on('error', error => { console.error(error); process.exit(1); });
"""

_NODE_PROXY = """
// VERSION PORT PEM: a SOCKS5 proxy behind TLS, whose every target answers the end with a digest.
const [port, pem] = process.argv.slice(2);
const server = tls.createServer({key: fs.readFileSync(pem), cert: fs.readFileSync(pem), allowHalfOpen: true,
                                 minVersion: version, maxVersion: version}, async socket => {
  socket.on('error', error => console.error(error));
  const input = reader(socket);
  const [, count] = await input.read(2);
  await input.read(count);
  socket.write(Buffer.from([5, 0]));
  const [, , , kind] = await input.read(4);
  await input.read(kind === 3 ? (await input.read(1))[0] + 2 : kind === 1 ? 6 : 18);
  const ended = input.toEnd();
  socket.write(Buffer.concat([Buffer.from([5, 0, 0, 1]), Buffer.alloc(6)]));
  socket.end(digest(await ended));
});
server.listen(port, '127.0.0.1', () => console.log('listening'));
"""


def node_client(version, port, target_port, path):
    """The command of a client that sends a file through the proxy at `port`, half-closes, and prints the answer."""
    return [need("node", "nodejs"), "-e", _NODE_COMMON + _NODE_CLIENT, "--", version, port, target_port, path]


def node_proxy(start, version, port, pem):
    """
    A proxy in Node, behind TLS, which is the target of every stream itself: see `answer_the_end`.

    :param start: starts programs, as the fixture ``program`` does.
    """
    command = [need("node", "nodejs"), "-e", _NODE_COMMON + _NODE_PROXY, "--", version, port, pem]

    def is_listening(started: Program):
        return "listening" in started.output

    return start(command, ready=is_listening)

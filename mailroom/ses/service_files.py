"""botocore's files about the services, read as small as they can be: a client keeps what it has read for ever."""

import gzip
import json
import os
from collections.abc import Sequence
from typing import Any, Final

from botocore.loaders import JSONFileLoader

# Those whose endpoints are asked for: SES and SQS, and what gives credentials. The file has those of all others, too.
ASKED: Final = {"email", "sqs", "sts", "portal.sso", "oidc", "signin"}


class ServiceFiles(JSONFileLoader):
    """Reads them into plain dicts, which keep their order, too, and take half the memory of botocore's."""

    def load_file(self, file_path: str) -> Any:
        """Return what is in a file, whose path is given without its ending; None where there is none."""
        for path, opened in ((f"{file_path}.json", open), (f"{file_path}.json.gz", gzip.open)):
            if os.path.isfile(path):
                with opened(path, "rt", encoding="utf-8") as file:
                    return json.load(file, object_pairs_hook=_smaller)
        return None


def _smaller(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; if it is a partition of AWS, without the endpoints of services that nobody here asks."""
    found = dict(pairs)
    if "partition" in found and "services" in found:
        found["services"] = {name: service for name, service in found["services"].items() if name in ASKED}
    return found

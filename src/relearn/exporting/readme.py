"""The README beside an exported model."""

from relearn.exporting.proof import describe_proof
from relearn.inference.exported import MODEL, RECORD, ExportRecord
from relearn.runtime.text import escape_markdown

TEMPLATE = """# {title}

`{model}` takes photos and answers with one of {n_classes} classes: {classes}. It needs
[onnxruntime](https://onnxruntime.ai), or another program that runs ONNX (operator set 18), and nothing else of the
pipeline that made it. `{record}` has its classes, hashes and versions, and what was measured.

| | |
| --- | --- |
| network | {network} |
| license of the weights | {license} |
| precision | {precision} |
| input | `image`: uint8, (batch, {size}, {size}, 3), red, green, blue, rows from the top |
| outputs | `label`: text (batch,); `probabilities`: float32 (batch, {n_classes}), in that order{features} |
| sha256 of `{model}` | `{sha256}` |

Compared with the pipeline, {given}: {proof}.

## Python

```python
{python}
```

## With relearn

```console
relearn predict --model FOLDER photo.jpg
relearn serve FOLDER
curl -F image=@photo.jpg http://127.0.0.1:8000/predict
```

## JavaScript, with the server

```javascript
const form = new FormData();
form.append("image", file); // a File of <input type="file">
const answer = await fetch("http://127.0.0.1:8000/predict", {{method: "POST", body: form}});
console.log(await answer.json());
```

A script of another page may ask the server only if it names the page: `relearn serve FOLDER --cors https://example.org`.
"""

PYTHON = """import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("{model}")
photo = Image.open("photo.jpg")  # with transparency: put it on white first
{draft}photo = ImageOps.exif_transpose(photo).convert("RGB")
{resize}image = np.asarray(photo)[np.newaxis]
label, probabilities = session.run(["label", "probabilities"], {{"image": image}})
print(label[0], probabilities[0])"""


def describe_export(record: ExportRecord) -> str:
    """Return the README of an exported model, Markdown."""
    size = "any" if record.any_size else str(record.image_size_px)
    px, name = record.image_size_px, record.resize_filter.upper()
    resize = "" if record.any_size else f"photo = photo.resize(({px}, {px}), Image.Resampling.{name})\n"
    draft = f'photo.draft("RGB", ({px}, {px}))\n' if record.jpeg_draft and not record.any_size else ""
    network = record.network
    title = f"Classifier {record.version}" if record.version else "Classifier"
    return TEMPLATE.format(
        title=title,
        model=MODEL,
        record=RECORD,
        n_classes=len(record.classes),
        classes=", ".join(escape_markdown(name) for name in record.classes),
        network=f"{network['name']}, weights {escape_markdown(str(network['weights']))}, pooling {network['pooling']}",
        precision="float32" if record.quantization == "none" else f"{record.quantization}, the head float32",
        license=network["license"] or "not known; ask the authors of the weights",
        size=size,
        features=f"; `features`: float32 (batch, {record.n_features})" if record.has_features else "",
        sha256=record.model_sha256,
        given="given whole images" if record.proof_any_size else "given the same pixels",
        proof=describe_proof(record.proof_any_size or record.proof),
        python=PYTHON.format(model=MODEL, draft=draft, resize=resize),
    )

# Lines of "message" or "event", a tab and JSON: those that do not fit their part of
# docs/websocket.schema.json are printed, and why.

import json
import sys

from jsonschema import Draft202012Validator

schema = json.load(open(sys.argv[1]))
Draft202012Validator.check_schema(schema)
parts = {
    part: Draft202012Validator({**schema, "$ref": "#/$defs/" + part})
    for part in ("message", "event")
}
for line in sys.stdin:
    part, text = line.rstrip("\n").split("\t", 1)
    for error in parts[part].iter_errors(json.loads(text)):
        print(f"{part} {text}: {error.message[:200]}")
        break

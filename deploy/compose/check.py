"""What Compose's schema does not say of compose.yaml: that what it names is there, and that it keeps this project's rules."""

import os
import re
import sys

import yaml

path = sys.argv[1]
folder = os.path.dirname(path)
with open(path, encoding="utf-8") as file:
    compose = yaml.safe_load(file)
services = compose["services"]
mistakes = []


def need(holds, text):
    if not holds:
        mistakes.append(text)


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


with open("deploy/images/Dockerfile", encoding="utf-8") as file:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", file.read(), re.MULTILINE))

ids = set()
for name, service in services.items():
    build = service.get("build")
    if build:
        need(os.path.exists(os.path.join(folder, build["context"], build["dockerfile"])), f"{name}: no Dockerfile")
        need(build["target"] in targets, f"{name}: the Dockerfile has no target {build['target']}")
    else:
        tag = service["image"].rpartition(":")[2]
        need(tag != service["image"] and tag != "latest", f"{name}: the image has no version")
    for other, wish in service.get("depends_on", {}).items():
        need(other in services, f"{name} depends on {other}, which is not there")
        checks = services.get(other, {})
        # Those of the services are in their images.
        healthy = "healthcheck" in checks or checks.get("build", {}).get("target") not in (None, "asobi")
        need(wish["condition"] != "service_healthy" or healthy, f"{name}: {other} has no health check")
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("."):
            need(os.path.exists(os.path.join(folder, source)), f"{name}: {source} does not exist")
            need(volume.endswith(":ro"), f"{name}: {source} can be written")
        else:
            need(source in compose["volumes"], f"{name}: the volume {source} is not declared")
    need(service.get("read_only") is True, f"{name}: the root file system can be written")
    need(service.get("cap_drop") == ["ALL"], f"{name}: keeps capabilities")
    need(not service.get("privileged"), f"{name}: is privileged")
    need(not service.get("ports") or name in ("haproxy", "grafana"), f"{name}: is published")
    environment = service.get("environment", {})
    for key, value in environment.items():
        # ${NAME:-development-only} and nothing else.
        secret = "PASSWORD" in key or re.search(r"://[^/]*:[^/]*@", str(value))
        need(not secret or re.search(r"\$\{[A-Z]+_PASSWORD:-development-only\}", value), f"{name}: {key} is a secret")
    if "ASOBI_NODE_ID" in environment:
        need(environment["ASOBI_NODE_ID"] == name, f"{name}: is called {environment['ASOBI_NODE_ID']}")
        need(environment["ASOBI_GRPC_ADVERTISE"] == f"{name}:8090", f"{name}: announces another one's address")
        grace = int(environment.get("ASOBI_SHUTDOWN_GRACE_MS", 8000)) / 1000
        # shutdown.ready_delay_ms, and a second after the cut.
        need(seconds(service["stop_grace_period"]) >= grace + 4, f"{name}: is killed while it drains")
        ids.add(name)

with open(os.path.join(folder, "prometheus/prometheus.yml"), encoding="utf-8") as file:
    scraped = set(re.findall(r"'([a-z0-9-]+):9100'", file.read()))
need(scraped == ids, f"Prometheus scrapes {sorted(scraped)}, and there are {sorted(ids)}")
with open(os.path.join(folder, "haproxy/haproxy.cfg"), encoding="utf-8") as file:
    balanced = set(re.findall(r'"([a-z0-9-]+):8080"', file.read()))
players = {name for name in ids if name.startswith(("gateway", "match-"))}
need(balanced == players, f"HAProxy knows {sorted(balanced)}, and there are {sorted(players)}")

for mistake in mistakes:
    print(f"{path}: {mistake}", file=sys.stderr)
print(f"{len(services)} services, {len(ids)} of them nodes: files, targets, conditions, graces and privileges are looked at")
sys.exit(1 if mistakes else 0)

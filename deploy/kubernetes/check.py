"""Holds built manifests against Kubernetes' schemas, strictly, and against each other: check.py FOLDER BUILT.yaml..."""

import os
import re
import sys

import kubernetes_validate
import yaml

# The oldest that has all that is used (sleep in preStop), and a recent one.
VERSIONS = ["1.30", "1.37"]
# Kinds that Kubernetes gets from elsewhere: the Prometheus operator, cert-manager. Their schemas are not looked at.
FOREIGN = {"ServiceMonitor", "Issuer", "Certificate"}
# shutdown.ready_delay_ms and the time after the cut, in seconds, and the default of shutdown.grace_ms.
AROUND, GRACE = 3 + 1, 8
METRICS_OF = {"asobi_session_sockets": "asobi-gateway", "asobi_match_load_ratio": "asobi-match"}

mistakes = []


def need(holds, text):
    if not holds:
        mistakes.append(text)
    return holds


def matches(selector, labels):
    """Whether a LabelSelector, or the plain map of a Service, selects these labels."""
    plain = selector.get("matchLabels", {} if "matchExpressions" in selector else selector)
    for term in selector.get("matchExpressions", []):
        assert term["operator"] == "In", term
        if labels.get(term["key"]) not in term["values"]:
            return False
    return all(labels.get(key) == value for key, value in plain.items())


class Built:
    """The objects of one overlay."""

    def __init__(self, path):
        self.name = os.path.basename(path).removesuffix(".yaml")
        with open(path, encoding="utf-8") as file:
            self.objects = [o for o in yaml.safe_load_all(file) if o]
        self.pods = {
            (o["kind"], o["metadata"]["name"]): o["spec"]["template"]
            for o in self.objects
            if o["kind"] in ("Deployment", "StatefulSet", "Job")
        }
        self.pods |= {("Pod", o["metadata"]["name"]): o for o in self.objects if o["kind"] == "Pod"}

    def of(self, kind):
        return [o for o in self.objects if o["kind"] == kind]

    def names(self, kind):
        return {o["metadata"]["name"] for o in self.of(kind)}

    def need(self, holds, text):
        return need(holds, f"{self.name}: {text}")


def schemas(built):
    held = 0
    for thing in built.objects:
        what = f"{thing['kind']} {thing['metadata']['name']}"
        built.need(thing["kind"] == "Namespace" or thing["metadata"].get("namespace") == "asobi", f"{what} is in no namespace")
        if thing["kind"] in FOREIGN:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(thing, version, strict=True)
                held += 1
            except (kubernetes_validate.ValidationError, kubernetes_validate.InvalidSchemaError) as error:
                built.need(False, f"{what}, Kubernetes {version}: {error.message}")
    return held


def pods(built):
    for (kind, name), template in built.pods.items():
        spec, what = template["spec"], f"{kind} {name}"
        security = spec["securityContext"]
        built.need(security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0, f"{what} may be root")
        built.need(security.get("seccompProfile") == {"type": "RuntimeDefault"}, f"{what} has no seccomp profile")
        built.need(spec.get("automountServiceAccountToken") is False, f"{what} has a token")
        built.need(spec.get("enableServiceLinks") is False, f"{what} is given variables of Services, which are no keys")
        built.need(kind == "Pod" or spec.get("serviceAccountName") in built.names("ServiceAccount"), f"{what} has no account")
        configs = built.names("ConfigMap")
        for volume in spec.get("volumes", []):
            built.need("configMap" not in volume or volume["configMap"]["name"] in configs, f"{what}: no {volume['name']}")
        for container in spec["containers"]:
            one(built, what, kind, spec, container)


def one(built, what, kind, spec, container):
    security = container["securityContext"]
    closed = (
        security.get("allowPrivilegeEscalation") is False
        and security.get("readOnlyRootFilesystem") is True
        and security.get("capabilities") == {"drop": ["ALL"]}
    )
    built.need(closed, f"{what} may do more than it must")
    resources = container["resources"]
    asks = {"cpu", "memory"} <= set(resources.get("requests", {})) and "memory" in resources.get("limits", {})
    built.need(asks, f"{what} asks for no resources, or is not limited")
    tag = container["image"].rpartition(":")[2]
    built.need(re.fullmatch(r"\d+\.\d+\.\d+", tag), f"{what}: {container['image']} is no release")
    declared = set()
    for variable in container["env"]:
        for used in re.findall(r"\$\((\w+)\)", variable.get("value", "")):
            built.need(used in declared, f"{what}: {variable['name']} uses {used}, which is not set before it")
        built.need(variable["name"] not in declared, f"{what}: {variable['name']} is set twice")
        declared.add(variable["name"])
        secret = re.search(r"://[^/]*:[^/]*@", variable.get("value", ""))
        built.need(not secret, f"{what}: {variable['name']} is a secret in plain text")
    mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
    built.need(mounted == {volume["name"] for volume in spec.get("volumes", [])}, f"{what}: volumes and mounts differ")
    if kind == "Pod":
        built.need(container["args"][3:] == ['a "b" \\c', "--reason", "x: [y]"], f"{what}: arguments are misread")
    if kind in ("Job", "Pod"):
        return
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    built.need(ports.items() <= {"players": 8080, "grpc": 8090, "metrics": 9100}.items(), f"{what} has ports of its own")
    wanted = {"startupProbe": "/live", "livenessProbe": "/live", "readinessProbe": "/ready"}
    for probe, path in wanted.items():
        built.need(container.get(probe, {}).get("httpGet") == {"path": path, "port": "metrics"}, f"{what}: {probe}")
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    built.need(before > 0 or "players" not in ports, f"{what} leaves before its Service knows")
    grace = {v["name"]: v.get("value") for v in container["env"]}.get("ASOBI_SHUTDOWN_GRACE_MS")
    drain = before + AROUND + (int(grace) / 1000 if grace else GRACE)
    built.need(spec["terminationGracePeriodSeconds"] >= drain, f"{what} is killed while it drains ({drain} s)")


def selectors(built):
    templates = {name: template["metadata"]["labels"] for (_, name), template in built.pods.items()}
    port_names = {
        name: {port["name"] for c in template["spec"]["containers"] for port in c.get("ports", [])}
        for (_, name), template in built.pods.items()
    }
    for thing in built.of("Deployment") + built.of("StatefulSet"):
        name, spec = thing["metadata"]["name"], thing["spec"]
        found = [other for other, labels in templates.items() if matches(spec["selector"], labels)]
        built.need(found == [name], f"{name} selects {found}")
        for spread in spec["template"]["spec"]["topologySpreadConstraints"]:
            built.need(matches(spread["labelSelector"], templates[name]), f"{name} spreads others")
        budgets = [b for b in built.of("PodDisruptionBudget") if matches(b["spec"]["selector"], templates[name])]
        built.need(len(budgets) == 1, f"{name} has {len(budgets)} disruption budgets")
        if thing["kind"] == "StatefulSet":
            heads = [s for s in built.of("Service") if s["metadata"]["name"] == spec["serviceName"]]
            built.need(len(heads) == 1 and heads[0]["spec"].get("clusterIP") == "None", f"{name} has no headless Service")
    for service in built.of("Service"):
        name, spec = service["metadata"]["name"], dict(service["spec"])
        pod = spec["selector"].pop("statefulset.kubernetes.io/pod-name", None)
        owner = pod.rpartition("-")[0] if pod else None
        found = [other for other, labels in templates.items() if matches(spec["selector"], labels)]
        built.need(found and owner in (None, *found), f"Service {name} selects {found}")
        for port in spec["ports"]:
            there = all(port["targetPort"] in port_names[other] for other in found)
            built.need(there, f"Service {name}: not all of {found} have {port['targetPort']}")
    for policy in built.of("NetworkPolicy"):
        chosen = policy["spec"]["podSelector"]
        name = policy["metadata"]["name"]
        selects = not chosen or any(matches(chosen, labels) for labels in templates.values())
        built.need(selects or name == "asobi-ctl", f"NetworkPolicy {name} selects nobody")


def secrets(built):
    """The names of Secrets that somebody has to bring."""
    made = {certificate["spec"]["secretName"] for certificate in built.of("Certificate")}
    used = {tls["secretName"] for ingress in built.of("Ingress") for tls in ingress["spec"]["tls"]}
    for template in built.pods.values():
        used |= {volume["secret"]["secretName"] for volume in template["spec"].get("volumes", []) if "secret" in volume}
        for container in template["spec"]["containers"]:
            sources = [variable.get("valueFrom", {}) for variable in container["env"]]
            used |= {source["secretKeyRef"]["name"] for source in sources if "secretKeyRef" in source}
    return used - made


def routes(built):
    services = {s["metadata"]["name"]: {port["name"] for port in s["spec"]["ports"]} for s in built.of("Service")}
    for ingress in built.of("Ingress"):
        hosts = {host for tls in ingress["spec"]["tls"] for host in tls["hosts"]}
        for rule in ingress["spec"]["rules"]:
            built.need(rule["host"] in hosts, f"{rule['host']} has no certificate")
            for path in rule["http"]["paths"]:
                to = path["backend"]["service"]
                built.need(to["port"]["name"] in services.get(to["name"], ()), f"{rule['host']} leads nowhere")
        # session.silence_ms is 90 s.
        for key in ("nginx.ingress.kubernetes.io/proxy-read-timeout", "haproxy.org/timeout-tunnel"):
            seconds = int(ingress["metadata"]["annotations"].get(key, "0").rstrip("s"))
            built.need(seconds > 90, f"Ingress {ingress['metadata']['name']}: {key} cuts sockets")
    for scaler in built.of("HorizontalPodAutoscaler"):
        spec, target = scaler["spec"], scaler["spec"]["scaleTargetRef"]
        scaled = [o for o in built.of(target["kind"]) if o["metadata"]["name"] == target["name"]]
        if not built.need(len(scaled) == 1, f"{target['name']} is scaled and not there"):
            continue
        built.need("replicas" not in scaled[0]["spec"], f"{target['name']}: its number is set by two")
        for metric in spec["metrics"]:
            if metric["type"] == "Pods":
                named = metric["pods"]["metric"]["name"]
                built.need(METRICS_OF.get(named) == target["name"], f"{target['name']} does not have {named}")
                served.add(named)
        addresses = [name for name in services if re.fullmatch(r"asobi-match-\d+", name)]
        fits = target["name"] != "asobi-match" or not addresses or len(addresses) >= spec["maxReplicas"]
        built.need(fits, "there are more match hosts than addresses")


folder, *paths = sys.argv[1:]
served, brought = set(), set()
for path in paths:
    overlay = Built(path)
    held = schemas(overlay)
    pods(overlay)
    selectors(overlay)
    routes(overlay)
    brought |= secrets(overlay)
    print(f"{overlay.name}: {len(overlay.objects)} objects, {held} times held against the schemas of {' and '.join(VERSIONS)}")

with open(os.path.join(folder, "adapter/rules.yaml"), encoding="utf-8") as file:
    rules = {rule["name"]["as"] for rule in yaml.safe_load(file)["rules"]}
need(rules == served == set(METRICS_OF), f"the adapter serves {sorted(rules)}, autoscalers ask for {sorted(served)}")
with open(os.path.join(folder, "secrets.example.yaml"), encoding="utf-8") as file:
    examples = {secret["metadata"]["name"]: secret for secret in yaml.safe_load_all(file)}
need(set(examples) == brought, f"secrets.example.yaml has {sorted(examples)}, the manifests name {sorted(brought)}")
for name, secret in examples.items():
    for key, value in secret["stringData"].items():
        need("replace-me" in value, f"secrets.example.yaml: {key} of {name} may be a real one")

for mistake in mistakes:
    print(f"deploy/kubernetes: {mistake}", file=sys.stderr)
sys.exit(1 if mistakes else 0)

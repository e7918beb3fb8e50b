//! What every process has: itself, its database, the bus, the registry, gRPC.

use super::{
    Buckets::{Counts, Seconds},
    Label::{Of, Rule},
    Metric, Roles, counter, gauge, histogram,
};

const ALL: Roles = Roles::ALL;
/// What the certificate is for.
const CERTIFICATE: super::Label = Of("which", &["http", "grpc"]);

pub(super) const TABLE: &[Metric] = &[
    gauge("asobi_build_info", ALL, "Always 1; which version runs, and as what.").by(&[
        Rule("version", "the process's own"),
        Of("role", &["gateway", "match-service", "matchmaker", "social-service"]),
    ]),
    gauge("asobi_ready", ALL, "1 while /ready answers 200, 0 while the process starts, drains or cannot work.").zero(),
    gauge("process_resident_memory_bytes", ALL, "Resident memory."),
    gauge("process_cpu_seconds_total", ALL, "CPU time, user and system."),
    gauge("process_open_fds", ALL, "Open file descriptors."),
    gauge("process_max_fds", ALL, "File descriptors that the process may have open."),
    gauge("process_start_time_seconds", ALL, "Start of the process, Unix time."),
    counter("asobi_telemetry_metric_exports_total", ALL, "Exports of metrics over OTLP, where there are any.")
        .by(&[Of("outcome", &["sent", "failed"])]),
    gauge("asobi_database_pool_connections", ALL, "Connections of this process's pool.")
        .by(&[Of("state", &["in_use", "idle"])]),
    gauge("asobi_database_pool_max", ALL, "Connections that the pool may open (`database.max_connections`)."),
    histogram(
        Seconds,
        "asobi_database_pool_wait_seconds",
        ALL,
        "How long a connection takes to be had from the pool, with the round trip that tests it: one try a second.",
    ),
    counter(
        "asobi_database_pool_timeouts_total",
        ALL,
        "Tries of that kind that had no connection within `database.timeout_ms`.",
    ),
    gauge(
        "asobi_database_connections",
        ALL,
        "Sessions of the whole database, as PostgreSQL counts them; every few seconds.",
    ),
    gauge(
        "asobi_bus_queue_usage_ratio",
        ALL,
        "`pg_notification_queue_usage()`: at 1 every NOTIFY of the cluster fails; every few seconds.",
    ),
    gauge(
        "asobi_bus_notify_lag_seconds",
        ALL,
        "From sending a notification to itself to hearing it; one that was not heard is as late as it is old.",
    ),
    gauge("asobi_bus_connected", ALL, "1 while the listening session is believed to be alive.").zero(),
    gauge("asobi_bus_queue_items", ALL, "Hints that wait to be notified, of 16,384.").zero(),
    histogram(Counts, "asobi_bus_batch_items", ALL, "Hints of one NOTIFY transaction."),
    counter("asobi_bus_dropped_total", ALL, "Hints that were given up; their rows are found by the next sweep.")
        .by(&[Of("reason", &["queue_full", "database_away"])]),
    counter("asobi_bus_listener_losses_total", ALL, "Listening sessions that were lost; each is followed by a resync."),
    counter(
        "asobi_bus_subscriber_overflows_total",
        ALL,
        "Parts of this process that fell behind the bus and read rows instead.",
    ),
    counter("asobi_bus_unreadable_payloads_total", ALL, "Notifications that could not be read."),
    counter("asobi_cluster_missed_heartbeats_total", ALL, "Heartbeats that failed or were not answered in time."),
    gauge(
        "asobi_cluster_lease_age_seconds",
        ALL,
        "Since the last heartbeat that succeeded was sent: past `node.lease_ms` others take this node for dead.",
    ),
    gauge("asobi_cluster_lease_seconds", ALL, "How long a lease is (`node.lease_ms`)."),
    gauge("asobi_cluster_nodes", ALL, "Nodes whose lease is valid, as this one sees the registry.")
        .by(&[Of("service", &["gateway", "match-service", "matchmaker", "social-service"])]),
    counter("asobi_access_swept_rows_total", ALL, "Tokens, keys and requests that were forgotten."),
    counter("asobi_audit_left_out_total", ALL, "Refusals that the audit only counts."),
    histogram(
        Seconds,
        "asobi_grpc_server_seconds",
        ALL,
        "gRPC calls, until the answer begins: those that were let in, and health and reflection together.",
    )
    .by(&[
        Rule("method", "the methods of Asobi's own services, `health or reflection`, or `other`"),
        Rule("code", "gRPC's status codes"),
    ]),
    counter(
        "asobi_grpc_denied_total",
        ALL,
        "Calls of somebody who is known, or of too many who are not, that were denied.",
    )
    .by(&[Of("reason", &["scope", "ended", "certificate", "rate"])]),
    counter("asobi_grpc_unauthenticated_total", ALL, "Calls with nothing, or an unknown token or key.")
        .by(&[Of("reason", &["nothing", "key", "token"])]),
    counter("asobi_grpc_tls_failures_total", ALL, "Handshakes that came to nothing.")
        .by(&[Of("side", &["client", "server"])]),
    counter(
        "asobi_limits_unknown_keys_total",
        ALL,
        "Addresses or players past what a rate limit remembers; they were let through.",
    ),
    counter("asobi_trace_spans_exported_total", ALL, "Spans that the collector took."),
    counter(
        "asobi_trace_spans_dropped_total",
        ALL,
        "Spans that did not leave; `rate`: errors and slow ones past their bound.",
    )
    .by(&[Of("reason", &["queue_full", "export_failed", "rate"])]),
    counter("asobi_log_lines_suppressed_total", ALL, "Log lines past the bound of their place."),
    counter("asobi_tls_reloads_total", ALL, "Certificates that changed and were read again.")
        .by(&[CERTIFICATE, Of("outcome", &["ok", "failed"])]),
    gauge("asobi_tls_certificate_expiry_seconds", ALL, "When the certificate ends, Unix time.").by(&[CERTIFICATE]),
    counter(
        "asobi_http_refused_total",
        Roles::PLAYERS,
        "Connections to the players' address that were refused before a request.",
    )
    .by(&[Of("reason", &["too_many", "too_slow", "untrusted_proxy", "proxy_header", "handshake", "plain_http"])]),
    counter(
        "asobi_http_door_full_total",
        Roles::PLAYERS,
        "Times that nobody was accepted because as many greetings as may be (TLS, PROXY) were under way.",
    ),
];

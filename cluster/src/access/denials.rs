//! Who was refused, into the audit: not so much of it that anybody could fill a disk. What is left out is counted, in the next entry or in one of its own.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use asobi_service_kit::{
    grpc::{Refusal, Who},
    rate::{Keyed, Rate},
};
use asobi_store::{
    audit::{self, Entry},
    within,
};
use serde_json::json;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Entries that wait to be written; what comes past it is counted.
const QUEUE: usize = 256;
/// Entries of one actor. All strangers are one.
const EACH: Rate = Rate { burst: 10, every: Duration::from_secs(10) };
/// Entries of this process.
const ALL: Rate = Rate { burst: 100, every: Duration::from_secs(2) };
const ACTORS: usize = 1_024;
/// When what was left out is told though nothing else is.
const TELL: Duration = Duration::from_secs(60);

pub(super) struct Denials {
    queue: mpsc::Sender<Entry>,
    each: Keyed<Arc<str>>,
    all: Keyed<()>,
    left_out: Arc<AtomicU64>,
}

impl Denials {
    /// The second writes until `stop`, and then what waits.
    pub fn new(pool: PgPool, bound: Duration, stop: CancellationToken) -> (Self, impl Future<Output = ()>) {
        let (queue, entries) = mpsc::channel(QUEUE);
        let left_out = Arc::new(AtomicU64::new(0));
        let writer = Writer { pool, bound, left_out: Arc::clone(&left_out) };
        (Self { queue, each: Keyed::new(ACTORS), all: Keyed::new(1), left_out }, writer.run(entries, stop))
    }

    /// Never waits.
    pub fn note(&self, refusal: Refusal) {
        let now = Instant::now();
        let key: Arc<str> = match &refusal.who {
            Who::Known(name) => Arc::clone(name),
            Who::Certificate(_) => "a stranger's certificate".into(),
            Who::Unknown(what) => (*what).into(),
        };
        if self.each.check(&key, EACH, now).is_err() || self.all.check(&(), ALL, now).is_err() {
            return self.leave_out(1);
        }
        let before = self.left_out.swap(0, Ordering::Relaxed);
        if self.queue.try_send(entry(refusal, before)).is_err() {
            self.leave_out(before + 1);
        }
    }

    fn leave_out(&self, entries: u64) {
        self.left_out.fetch_add(entries, Ordering::Relaxed);
        metrics::counter!("asobi_audit_left_out_total").increment(1);
    }
}

struct Writer {
    pool: PgPool,
    bound: Duration,
    left_out: Arc<AtomicU64>,
}

impl Writer {
    async fn run(self, mut entries: mpsc::Receiver<Entry>, stop: CancellationToken) {
        let mut tell = tokio::time::interval(TELL);
        tell.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                entry = entries.recv() => match entry {
                    Some(entry) => self.write(entry).await,
                    None => return,
                },
                _ = tell.tick() => self.tell().await,
            }
        }
        entries.close();
        while let Some(entry) = entries.recv().await {
            self.write(entry).await;
        }
        self.tell().await;
    }

    async fn tell(&self) {
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            self.write(refused("several".to_owned(), String::new(), json!({"left_out": left_out}))).await;
        }
    }

    async fn write(&self, entry: Entry) {
        let writing = async {
            let mut conn = self.pool.acquire().await?;
            audit::append(&mut conn, &entry).await
        };
        if let Err(error) = within(self.bound, writing).await {
            let before = entry.detail["left_out"].as_u64().unwrap_or_default();
            self.left_out.fetch_add(before + u64::from(entry.actor != "several"), Ordering::Relaxed);
            tracing::warn!(%error, actor = entry.actor, action = entry.action, "A refusal could not be written down.");
        }
    }
}

fn entry(refusal: Refusal, left_out: u64) -> Entry {
    let actor = match refusal.who {
        Who::Known(name) => name.to_string(),
        Who::Certificate(subject) => format!("certificate:{subject}"),
        Who::Unknown(what) => format!("unknown {what}"),
    };
    let mut detail = json!({"why": refusal.why});
    if let Some(from) = refusal.from {
        detail["from"] = from.to_string().into();
    }
    if left_out > 0 {
        detail["left_out"] = left_out.into();
    }
    refused(actor, refusal.action, detail)
}

fn refused(actor: String, action: String, detail: serde_json::Value) -> Entry {
    Entry { actor, action, subject: String::new(), done: false, request_id: None, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flood_is_counted_and_hides_nobody_else() {
        let pool = PgPool::connect_lazy("postgres://127.0.0.1:1/none").unwrap();
        let (denials, _writing) = Denials::new(pool, Duration::from_secs(1), CancellationToken::new());
        let (queue, mut entries) = mpsc::channel(QUEUE);
        let denials = Denials { queue, ..denials };
        let from = Some(std::net::Ipv4Addr::LOCALHOST.into());
        let refusal = |who| Refusal { who, action: "OpsService/ListNodes".into(), why: "no".into(), from };
        for n in 0..1_000 {
            denials.note(refusal(Who::Certificate(format!("CN={n}"))));
        }
        denials.note(refusal(Who::Known("token:ada".into())));
        let mut written = Vec::new();
        while let Ok(entry) = entries.try_recv() {
            written.push(entry);
        }
        assert_eq!(written.len(), 11);
        let ada = written.pop().unwrap();
        assert_eq!((ada.actor.as_str(), ada.done), ("token:ada", false));
        assert_eq!(ada.detail, json!({"why": "no", "from": "127.0.0.1", "left_out": 990}));
        assert_eq!(written[0].actor, "certificate:CN=0");
    }
}

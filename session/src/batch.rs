//! Questions that come one by one and are answered many at a time: while one read is under way the next questions gather.
//!
//! ```text
//!  ask ──► queue ──(a permit)──► one read for all that wait ──► each its answer
//!            └ not taken in time, or given up: skipped, and costs the database nothing
//! ```
//!
//! The queue is bounded; who finds it full waits for room within their own time. Readers share permits, so that all of them together
//! never take more than their part of the pool's connections.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use tokio::sync::{Semaphore, mpsc, oneshot};

/// Questions that one read answers.
const BATCH: usize = 256;
/// Questions that wait for the next one.
const QUEUE: usize = 1_024;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// It was not its turn in time.
    Late,
    /// The read failed, which was logged.
    Failed,
}

/// Where questions are put.
pub(crate) struct Batched<K, V>(mpsc::Sender<Question<K, V>>);

/// Where they are taken from.
pub(crate) struct Questions<K, V>(mpsc::Receiver<Question<K, V>>);

struct Question<K, V> {
    key: K,
    answer: oneshot::Sender<Option<V>>,
}

pub(crate) fn new<K, V>() -> (Batched<K, V>, Questions<K, V>) {
    let (questions, queue) = mpsc::channel(QUEUE);
    (Batched(questions), Questions(queue))
}

impl<K, V> Batched<K, V> {
    /// The answer; the default of its type where the read has none.
    ///
    /// # Errors
    /// [`Unanswered`], within `patience`.
    pub(crate) async fn ask(&self, key: K, patience: Duration) -> Result<V, Unanswered> {
        let asking = async {
            let (answer, answered) = oneshot::channel();
            self.0.send(Question { key, answer }).await.map_err(|_| Unanswered::Failed)?;
            answered.await.ok().flatten().ok_or(Unanswered::Failed)
        };
        tokio::time::timeout(patience, asking).await.unwrap_or(Err(Unanswered::Late))
    }
}

/// Answers questions until nobody can ask any more. `read` answers for the keys it knows something of.
pub(crate) async fn answer<K, V, F>(
    Questions(mut queue): Questions<K, V>,
    permits: Arc<Semaphore>,
    what: &'static str,
    read: impl Fn(Vec<K>) -> F,
) where
    K: Hash + Eq + Clone,
    V: Clone + Default,
    F: Future<Output = asobi_store::Result<HashMap<K, V>>>,
{
    let size = metrics::histogram!("asobi_session_look_up_keys", "what" => what);
    let mut questions = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut questions, BATCH).await > 0 {
        // Nobody closes it.
        let permit = permits.acquire().await;
        // Others came while a permit was waited for.
        while questions.len() < BATCH
            && let Ok(question) = queue.try_recv()
        {
            questions.push(question);
        }
        questions.retain(|question| !question.answer.is_closed());
        let mut keys: Vec<K> = Vec::with_capacity(questions.len());
        let mut seen = std::collections::HashSet::with_capacity(questions.len());
        keys.extend(
            questions.iter().filter(|question| seen.insert(&question.key)).map(|question| question.key.clone()),
        );
        drop(seen);
        if keys.is_empty() {
            questions.clear();
            continue;
        }
        size.record(keys.len() as f64);
        let answers = read(keys).await;
        drop(permit);
        match answers {
            Ok(answers) => {
                for Question { key, answer } in questions.drain(..) {
                    // Whoever asked may have gone.
                    let _ = answer.send(Some(answers.get(&key).cloned().unwrap_or_default()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, what, asked = questions.len(), "What connections need to know could not be read.");
                questions.drain(..).for_each(|question| drop(question.answer.send(None)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn questions_gather_while_a_read_is_under_way() {
        let (batched, questions) = new::<u32, u32>();
        let (batched, reads, go) = (Arc::new(batched), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (counted, gate) = (Arc::clone(&reads), Arc::clone(&go));
        let reading = tokio::spawn(answer(questions, Arc::new(Semaphore::new(1)), "test", move |keys: Vec<u32>| {
            let (counted, gate) = (Arc::clone(&counted), Arc::clone(&gate));
            async move {
                counted.fetch_add(1, Ordering::AcqRel);
                gate.notified().await;
                Ok(keys.into_iter().filter(|key| *key != 7).map(|key| (key, key * 2)).collect())
            }
        }));
        let first = tokio::spawn({
            let batched = Arc::clone(&batched);
            async move { batched.ask(1, PATIENCE).await }
        });
        while reads.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
        // All of these are put while the first is read; one of them twice.
        let rest = join_all((2..=100).chain([2]).map(|key| batched.ask(key, PATIENCE)));
        let going = async {
            go.notify_one();
            while reads.load(Ordering::Acquire) < 2 {
                tokio::task::yield_now().await;
            }
            go.notify_one();
        };
        let (answers, ()) = tokio::join!(rest, going);
        assert_eq!(first.await.expect("it ends"), Ok(2));
        let right = (2..=100).chain([2]).map(|key| Ok(if key == 7 { 0 } else { key * 2 }));
        assert!(answers.into_iter().eq(right), "what a read does not know is the default");
        assert_eq!(reads.load(Ordering::Acquire), 2);
        drop(batched);
        reading.await.expect("it ends with those who ask");
    }

    #[tokio::test]
    async fn whoever_has_given_up_costs_no_read_and_a_failure_is_told() {
        let (batched, questions) = new::<u32, u32>();
        let permits = Arc::new(Semaphore::new(0));
        let read = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let seen = Arc::clone(&read);
        let reading = tokio::spawn(answer(questions, Arc::clone(&permits), "test", move |keys: Vec<u32>| {
            seen.lock().extend(keys);
            async { Err(asobi_store::Error::Deadline(PATIENCE)) }
        }));
        assert_eq!(batched.ask(1, Duration::from_millis(1)).await, Err(Unanswered::Late));
        permits.add_permits(1);
        assert_eq!(batched.ask(2, PATIENCE).await, Err(Unanswered::Failed));
        assert_eq!(*read.lock(), [2]);
        drop(batched);
        reading.await.expect("it ends with those who ask");
    }
}

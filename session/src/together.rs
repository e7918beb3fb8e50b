//! What many ask for at once, done by one statement: while one is under way the next ones gather, so that an idle node asks at once and a busy
//! one in batches.
//!
//! A task does it, and not whoever comes first: a socket may close at any moment, and what others wait for must not go with it.

use std::{future::Future, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

/// Asks of one batch.
const BATCH: usize = 256;
/// After so long the next batch no longer waits for the one before, which may stand behind somebody's lock …
const PATIENCE: Duration = Duration::from_millis(100);
/// … unless so many do.
const UNDER_WAY: usize = 8;

/// Where one asks.
pub(crate) struct Together<T, A>(mpsc::Sender<Ask<T, A>>);

pub(crate) struct Ask<T, A> {
    what: T,
    answer: oneshot::Sender<A>,
}

impl<T, A> Together<T, A> {
    /// When `waiting` are in the queue, who asks waits for room. [`run`] does the work.
    pub(crate) fn new(waiting: usize) -> (Self, mpsc::Receiver<Ask<T, A>>) {
        let (asks, queue) = mpsc::channel(waiting);
        (Self(asks), queue)
    }

    /// None: what became of it is unknown. The caller bounds it in time; what nobody waits for any more is not begun.
    pub(crate) async fn ask(&self, what: T) -> Option<A> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Ask { what, answer }).await.ok()?;
        answered.await.ok()
    }
}

/// Does what is asked for until nobody can ask any more. `deed` bounds itself, and answers each in order; none: it came to nothing.
pub(crate) async fn run<T, A, F>(mut asks: mpsc::Receiver<Ask<T, A>>, deed: impl Fn(Vec<T>) -> F)
where
    F: Future<Output = Option<Vec<A>>> + Send + 'static,
    A: Send + 'static,
{
    let mut under_way = JoinSet::new();
    let mut batch = Vec::new();
    while asks.recv_many(&mut batch, BATCH).await > 0 {
        batch.retain(|ask| !ask.answer.is_closed());
        if batch.is_empty() {
            continue;
        }
        let (what, waiting): (Vec<T>, Vec<_>) = batch.drain(..).map(|ask| (ask.what, ask.answer)).unzip();
        let doing = deed(what);
        under_way.spawn(async move {
            for (answer, waiting) in doing.await.into_iter().flatten().zip(waiting) {
                let _ = waiting.send(answer);
            }
        });
        let _ = timeout(PATIENCE, under_way.join_next()).await;
        while under_way.len() >= UNDER_WAY {
            under_way.join_next().await;
        }
        while under_way.try_join_next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_one_is_under_way_is_done_with_the_next() {
        let (together, queue) = Together::<u32, u32>::new(16);
        let (together, batches, gate) =
            (Arc::new(together), Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
        let (seen, passed) = (Arc::clone(&batches), Arc::clone(&gate));
        tokio::spawn(run(queue, move |what: Vec<u32>| {
            seen.lock().push(what.clone());
            let passed = Arc::clone(&passed);
            async move {
                passed.acquire().await.ok()?.forget();
                Some(what.into_iter().map(|n| n * 2).collect())
            }
        }));
        let ask = |n| {
            let together = Arc::clone(&together);
            tokio::spawn(async move { together.ask(n).await })
        };
        let first = ask(1);
        while batches.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        let later: Vec<_> = (2..5).map(ask).collect();
        // Who is gone is not asked for.
        let gone = ask(9);
        tokio::task::yield_now().await;
        gone.abort();
        let _ = gone.await;
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), Some(2));
        for (n, answer) in (2..5).zip(later) {
            assert_eq!(answer.await.unwrap(), Some(n * 2));
        }
        assert_eq!(*batches.lock(), [vec![1], vec![2, 3, 4]]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_stands_still_holds_nobody_up() {
        let (together, queue) = Together::<u32, u32>::new(16);
        tokio::spawn(run(queue, |what: Vec<u32>| async move {
            if what.contains(&1) {
                tokio::time::sleep(Duration::from_secs(3)).await;
                return None;
            }
            Some(what)
        }));
        let together = Arc::new(together);
        let stuck = tokio::spawn({
            let together = Arc::clone(&together);
            async move { together.ask(1).await }
        });
        tokio::task::yield_now().await;
        let answered = timeout(Duration::from_millis(500), together.ask(2)).await;
        assert_eq!(answered, Ok(Some(2)));
        assert_eq!(stuck.await.unwrap(), None);
    }
}

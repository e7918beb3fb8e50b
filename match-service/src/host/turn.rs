//! What the matches of one worker say in one turn leaves together: waking the task of a stream for each state costs more than the state.
//!
//! ```text
//!   ticks that are due ─▶ frames are queued ─▶ … ─▶ all tasks of the turn have run ─▶ each stream is woken once
//!                               └── the turn lasts longer than MOST ──────────────────────▲
//! ```

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::Notify, task::yield_now};

/// How long frames wait for the end of a turn: a game that takes its time does not hold up what its neighbours have said.
const MOST: Duration = Duration::from_millis(2);

/// A queue whose reader is woken apart from what is put into it.
pub trait Wake: Send + Sync {
    fn wake(&self);
}

thread_local! {
    static TURN: RefCell<Option<Rc<Turn>>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Turn {
    begun: Notify,
    waiting: RefCell<Waiting>,
}

#[derive(Default)]
struct Waiting {
    since: Option<Instant>,
    /// As many as nodes have streams here.
    queues: Vec<Arc<dyn Wake>>,
}

impl Turn {
    fn end(&self) {
        let queues = {
            let mut waiting = self.waiting.borrow_mut();
            waiting.since = None;
            std::mem::take(&mut waiting.queues)
        };
        queues.iter().for_each(|queue| queue.wake());
    }
}

/// Makes this thread a worker's: queues are woken at the end of its turns, for as long as this runs, on the thread's `LocalSet`.
pub async fn keep() {
    let turn = Rc::new(Turn::default());
    TURN.set(Some(Rc::clone(&turn)));
    loop {
        turn.begun.notified().await;
        // Goes on when everything has run that is due now.
        yield_now().await;
        turn.end();
    }
}

/// Wakes the queue's reader: at the end of the turn on a worker's thread, at once anywhere else.
pub fn wake_later(queue: &Arc<dyn Wake>) {
    let turn = TURN.with_borrow(Clone::clone);
    let Some(turn) = turn else {
        return queue.wake();
    };
    let over = {
        let mut waiting = turn.waiting.borrow_mut();
        if !waiting.queues.iter().any(|known| Arc::ptr_eq(known, queue)) {
            waiting.queues.push(Arc::clone(queue));
        }
        match waiting.since {
            Some(since) => since.elapsed() >= MOST,
            None => {
                waiting.since = Some(Instant::now());
                turn.begun.notify_one();
                false
            }
        }
    };
    if over {
        turn.end();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicU32);

    impl Wake for Counted {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn counted() -> (Arc<Counted>, Arc<dyn Wake>) {
        let queue = Arc::<Counted>::default();
        (Arc::clone(&queue), queue)
    }

    #[test]
    fn elsewhere_a_queue_is_woken_at_once() {
        let (count, queue) = counted();
        wake_later(&queue);
        wake_later(&queue);
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn what_a_turn_says_wakes_each_queue_once() {
        let (count, queue) = counted();
        let (other_count, other) = counted();
        LocalSet::new()
            .run_until(async {
                let keeper = spawn_local(keep());
                yield_now().await;
                let matches: Vec<_> = (0..20)
                    .map(|_| {
                        let (count, queue, other) = (Arc::clone(&count), Arc::clone(&queue), Arc::clone(&other));
                        spawn_local(async move {
                            wake_later(&queue);
                            wake_later(&other);
                            count.0.load(Ordering::SeqCst)
                        })
                    })
                    .collect();
                for played in matches {
                    assert_eq!(played.await.expect("plays"), 0, "not before the turn is over");
                }
                while count.0.load(Ordering::SeqCst) == 0 {
                    yield_now().await;
                }
                assert_eq!((count.0.load(Ordering::SeqCst), other_count.0.load(Ordering::SeqCst)), (1, 1));
                wake_later(&queue);
                let begun = Instant::now();
                while begun.elapsed() < MOST {
                    std::hint::spin_loop();
                }
                wake_later(&queue);
                assert_eq!(count.0.load(Ordering::SeqCst), 2, "a long turn is not waited for");
                keeper.abort();
            })
            .await;
    }
}

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn text(number: u64) -> Bytes {
    Bytes::from(number.to_string())
}

/// A way that takes everything, and what it took.
fn into(taken: &mut Vec<u64>) -> impl FnMut(u64, Bytes) -> Result<(), LinkError> {
    |number, payload| {
        assert_eq!(payload, text(number));
        taken.push(number);
        Ok(())
    }
}

fn take(inputs: &mut Inputs, number: u64, taken: &mut Vec<u64>) {
    assert_eq!(inputs.take(number, text(number), into(taken)), Ok(()));
}

#[test]
fn inputs_wait_until_the_gate_opens_and_nothing_overtakes() {
    let (mut inputs, mut taken) = (Inputs::default(), Vec::new());
    (1..=3).for_each(|number| take(&mut inputs, number, &mut taken));
    assert_eq!(taken, [0; 0]);
    assert_eq!(inputs.open(0, into(&mut taken)), Opened::Open);
    take(&mut inputs, 4, &mut taken);
    assert_eq!(taken, [1, 2, 3, 4]);
    // The next host has what a checkpoint had, and hears the rest again: also what the one before had taken.
    inputs.close();
    inputs.safe(1);
    take(&mut inputs, 5, &mut taken);
    taken.clear();
    assert_eq!(inputs.open(2, into(&mut taken)), Opened::Open);
    assert_eq!(taken, [3, 4, 5]);
    inputs.close();
    taken.clear();
    assert_eq!(inputs.open(1, into(&mut taken)), Opened::Open);
    assert_eq!(taken, [2, 3, 4, 5]);
}

#[test]
fn what_is_kept_is_bounded_and_the_oldest_goes_first() {
    let (mut inputs, mut taken) = (Inputs::default(), Vec::new());
    (1..=MOST as u64 + 5).for_each(|number| take(&mut inputs, number, &mut taken));
    inputs.open(0, into(&mut taken));
    assert_eq!((taken.len(), taken[0]), (MOST, 6));

    let mut inputs = Inputs::default();
    let block = Bytes::from(vec![b' '; BYTES / 4]);
    for number in 1..=6 {
        assert_eq!(inputs.take(number, block.clone(), |_, _| Ok(())), Ok(()));
    }
    assert_eq!((inputs.kept.len(), inputs.bytes, inputs.kept[0].0), (4, BYTES, 3));
    // One that is larger than all of the room is kept alone.
    assert_eq!(inputs.take(7, Bytes::from(vec![b' '; 2 * BYTES]), |_, _| Ok(())), Ok(()));
    assert_eq!((inputs.kept.len(), inputs.kept[0].0), (1, 7));
    inputs.safe(7);
    assert_eq!((inputs.kept.len(), inputs.bytes), (0, 0));
}

#[test]
fn a_full_queue_refuses_the_input_and_a_broken_way_keeps_it() {
    let (mut inputs, mut taken) = (Inputs::default(), Vec::new());
    inputs.open(0, into(&mut taken));
    assert_eq!(inputs.take(1, text(1), |_, _| Err(LinkError::Full)), Err(LinkError::Full));
    assert!(inputs.is_open() && inputs.kept.is_empty());
    assert_eq!(inputs.take(1, text(1), |_, _| Err(LinkError::Unavailable)), Ok(()));
    assert!(!inputs.is_open());
    inputs.open(0, into(&mut taken));
    assert_eq!(taken, [1]);
}

#[test]
fn an_opening_that_finds_no_room_goes_on_unless_the_way_broke() {
    let (mut inputs, mut taken) = (Inputs::default(), Vec::new());
    (1..=4).for_each(|number| take(&mut inputs, number, &mut taken));
    let two = |number, _| if number <= 2 { Ok(()) } else { Err(LinkError::Full) };
    let Opened::Partly(rest) = inputs.open(0, two) else { panic!("there was room for two") };
    // What comes meanwhile waits its turn.
    take(&mut inputs, 5, &mut taken);
    assert_eq!(taken, [0; 0]);
    assert_eq!(inputs.resume(rest, into(&mut taken)), Opened::Open);
    assert_eq!(taken, [3, 4, 5]);

    inputs.close();
    let Opened::Partly(rest) = inputs.open(0, two) else { panic!("there was room for two") };
    inputs.close();
    assert_eq!(inputs.resume(rest, into(&mut taken)), Opened::No);
    assert!(!inputs.is_open());
}

/// Something that happens to a session and its match.
#[derive(Debug, Clone)]
enum Step {
    /// The client sends an input.
    Input,
    /// The queue's other end takes so many.
    Pass(usize),
    /// The host writes a checkpoint; the edge hears of it.
    Checkpoint,
    /// It does not hear of it.
    QuietCheckpoint,
    /// What is in the queue is lost, and the way is down.
    Break,
    /// The edge sees that it is down.
    Close,
    /// A new way to the host, which says what it took.
    Enter,
    /// Another host, which goes on from the checkpoint.
    FailOver,
    /// An opening under way goes on.
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Input),
        4 => (1_usize..6).prop_map(Step::Pass),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::QuietCheckpoint),
        1 => Just(Step::Break),
        1 => Just(Step::Close),
        3 => Just(Step::Enter),
        1 => Just(Step::FailOver),
        2 => Just(Step::Resume),
    ]
}

/// Room in the queue towards the match.
const ROOM: usize = 5;

/// A match host, the queue to it, and what they must hold.
#[derive(Default)]
struct World {
    inputs: Inputs,
    last: u64,
    /// None: the way is down.
    queue: Option<VecDeque<u64>>,
    /// Of this host: what it applied, in order.
    applied: Vec<u64>,
    /// How many of those a checkpoint has.
    safe: usize,
    rest: Option<Rest>,
}

impl World {
    fn sender(queue: &mut Option<VecDeque<u64>>) -> impl FnMut(u64, Bytes) -> Result<(), LinkError> {
        |number, _| match queue {
            None => Err(LinkError::Unavailable),
            Some(queue) if queue.len() >= ROOM => Err(LinkError::Full),
            Some(queue) => {
                queue.push_back(number);
                Ok(())
            }
        }
    }

    fn pass(&mut self, most: usize) {
        for _ in 0..most {
            let Some(number) = self.queue.as_mut().and_then(VecDeque::pop_front) else { return };
            // The host's rule: what it has seen is dropped.
            if number > self.applied.last().copied().unwrap_or(0) {
                self.applied.push(number);
            }
        }
    }

    fn enter(&mut self) {
        // A session enters over a way that was closed before, as the edge does it.
        self.inputs.close();
        self.queue = Some(VecDeque::new());
        let applied = self.applied.last().copied().unwrap_or(0);
        let opened = self.inputs.open(applied, Self::sender(&mut self.queue));
        self.note(opened);
    }

    fn note(&mut self, opened: Opened) {
        self.rest = if let Opened::Partly(rest) = opened { Some(rest) } else { None };
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Input => {
                let number = self.last + 1;
                if self.inputs.take(number, text(number), Self::sender(&mut self.queue)).is_ok() {
                    self.last = number;
                }
            }
            Step::Pass(most) => self.pass(*most),
            Step::Checkpoint | Step::QuietCheckpoint => {
                self.safe = self.applied.len();
                if matches!(step, Step::Checkpoint) {
                    self.inputs.safe(self.applied.last().copied().unwrap_or(0));
                }
            }
            Step::Break => self.queue = None,
            Step::Close => {
                self.queue = None;
                self.inputs.close();
            }
            Step::Enter => self.enter(),
            Step::FailOver => {
                self.applied.truncate(self.safe);
                self.enter();
            }
            Step::Resume => {
                if let Some(rest) = self.rest.take() {
                    let opened = self.inputs.resume(rest, Self::sender(&mut self.queue));
                    self.note(opened);
                }
            }
        }
    }
}

proptest! {
    // A failure prints its case, and the seed it can be had from again.
    #[test]
    fn nothing_is_lost_doubled_or_out_of_order(steps in prop::collection::vec(step(), 1..MOST)) {
        let mut world = World::default();
        for step in &steps {
            world.step(step);
            // In order and without a gap, at every moment: fewer steps than fit, so nothing has been dropped for want of room.
            let numbers: Vec<u64> = (1..=world.applied.len() as u64).collect();
            prop_assert_eq!(&world.applied, &numbers, "after {:?}", step);
        }
        // In the end all of it arrives, whatever happened.
        world.enter();
        while world.rest.is_some() || world.queue.as_ref().is_some_and(|queue| !queue.is_empty()) {
            world.pass(ROOM);
            world.step(&Step::Resume);
        }
        prop_assert_eq!(world.applied.len() as u64, world.last);
    }
}

//! The terminal while it is ours. It is given back however this ends: by a key, a signal, an error, or a panic.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    draw::{View, draw},
    model::{Model, SortBy},
    sample::{Known, Sample},
};
use crate::ctl::Ctl;

/// How long the thread that reads keys waits for one, before it looks whether anybody wants them.
const KEY: Duration = Duration::from_millis(100);
/// Keys that may wait; a terminal that floods loses some.
const KEYS: usize = 64;

/// The terminal, given back when dropped. A panic gives it back by ratatui's hook, so that its message can be read.
struct Screen(DefaultTerminal);

impl Screen {
    fn take() -> anyhow::Result<Self> {
        ratatui::try_init().map(Self).context("the terminal cannot be used; --once prints one picture")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Ends the thread that reads keys.
struct Keys {
    keys: mpsc::Receiver<Event>,
    unwanted: Arc<AtomicBool>,
}

impl Keys {
    fn read() -> anyhow::Result<Self> {
        let (sender, keys) = mpsc::channel(KEYS);
        let unwanted = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&unwanted);
        // A thread of its own: reading a terminal blocks.
        let reading = move || {
            while !over.load(Ordering::Relaxed) {
                match event::poll(KEY) {
                    Ok(true) => match event::read() {
                        Ok(event) => drop(sender.try_send(event)),
                        Err(_) => return,
                    },
                    Ok(false) => {}
                    // The terminal is gone; with the sender the loop hears of it.
                    Err(_) => return,
                }
            }
        };
        std::thread::Builder::new().name("keys".to_owned()).spawn(reading).context("no thread for the keys")?;
        Ok(Self { keys, unwanted })
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.unwanted.store(true, Ordering::Relaxed);
    }
}

/// Shows the cluster until somebody has seen enough.
///
/// # Errors
/// The terminal cannot be used any more.
pub async fn run(ctl: &Ctl, every: Duration) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut screen = Screen::take()?;
    let mut keys = Keys::read()?;
    let mut view = View::default();
    let mut last: Option<Sample> = None;
    let mut looking = Box::pin(look(ctl, Known::default(), Duration::ZERO));
    loop {
        screen.0.draw(|frame| draw(frame, &view)).context("the terminal cannot be drawn on")?;
        tokio::select! {
            (known, sample) = &mut looking => {
                looking = Box::pin(look(ctl, known, every));
                let mut model = Model::of(last.as_ref(), &sample);
                model.sort(view.sort, view.reversed);
                view.model = Some(model);
                last = Some(sample);
            }
            event = keys.keys.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if !press(&mut view, key) {
                        return Ok(());
                    }
                }
                Some(_) => {}
                None => anyhow::bail!("the terminal is gone"),
            },
            _ = terminate.recv() => return Ok(()),
        }
    }
}

async fn look(ctl: &Ctl, mut known: Known, after: Duration) -> (Known, Sample) {
    tokio::time::sleep(after).await;
    let sample = Sample::take(ctl, &mut known).await;
    (known, sample)
}

/// What a key does; false: enough was seen.
fn press(view: &mut View, key: KeyEvent) -> bool {
    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        _ if interrupt => return false,
        KeyCode::Up => view.scrolled = view.scrolled.saturating_sub(1),
        KeyCode::Down => {
            let nodes = view.model.as_ref().map_or(0, |model| model.rows.len());
            view.scrolled = (view.scrolled + 1).min(nodes);
        }
        KeyCode::Char(key) => {
            if let Some(by) = SortBy::ALL.into_iter().find(|by| by.key() == key) {
                view.reversed = view.sort == by && !view.reversed;
                view.sort = by;
                if let Some(model) = &mut view.model {
                    model.sort(by, view.reversed);
                }
            }
        }
        _ => {}
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{super::model::tests::looks, *};

    #[test]
    fn keys_sort_turn_round_scroll_and_quit() {
        let (first, second) = looks();
        let mut view = View { model: Some(Model::of(Some(&first), &second)), ..View::default() };
        let mut press_key = |code| press(&mut view, KeyEvent::new(code, KeyModifiers::NONE));
        assert!(press_key(KeyCode::Char('n')) && press_key(KeyCode::Char('n')) && press_key(KeyCode::Char('z')));
        assert!(press_key(KeyCode::Down) && press_key(KeyCode::Down) && press_key(KeyCode::Up));
        assert!(!press_key(KeyCode::Char('q')) && !press_key(KeyCode::Esc));
        assert_eq!((view.sort, view.reversed, view.scrolled), (SortBy::Node, true, 1));
        assert_eq!(view.model.as_ref().unwrap().rows[0].node_id, "matchmaker-0");
        assert!(!press(&mut view, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(press(&mut view, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::NONE)), "by CPU");
    }
}

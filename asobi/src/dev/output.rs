//! The children's lines on our standard output, each with its node's name in the node's colour.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// Lines that wait for a slow terminal. Beyond it lines are dropped and counted: a terminal somebody has stopped must
/// not stop the cluster, which a full pipe would.
const QUEUE: usize = 4_096;
/// A longer line is shown in pieces, so that a child cannot make the supervisor grow.
const LINE_BYTES: usize = 16 * 1024;

/// Readable on dark and on light ground.
const COLOURS: [u8; 6] = [36, 32, 33, 35, 34, 31];

/// Whether to colour what goes to standard output.
pub fn coloured() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    !set("NO_COLOR") && (set("CLICOLOR_FORCE") || io::stdout().is_terminal())
}

/// Takes lines from anywhere and prints them in turn. Clones share one terminal.
#[derive(Debug, Clone)]
pub struct Output {
    lines: SyncSender<String>,
    dropped: Arc<AtomicU64>,
    coloured: bool,
    /// Width of the column of names.
    width: usize,
}

/// Ends when all clones of its [`Output`] are gone.
#[derive(Debug)]
pub struct Printer(JoinHandle<()>);

impl Printer {
    /// Waits until all lines are printed.
    pub fn finish(self) {
        // A panic there has been reported by the panic hook.
        let _ended = self.0.join();
    }
}

impl Output {
    /// # Errors
    /// If no thread can be started.
    pub fn start(names: impl Iterator<Item = usize>) -> io::Result<(Self, Printer)> {
        let (lines, receiver) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = dropped.clone();
        let thread = thread::Builder::new().name("printer".to_owned()).spawn(move || print(&receiver, &count))?;
        let width = names.max().unwrap_or(0).max("asobi".len());
        Ok((Self { lines, dropped, coloured: coloured(), width }, Printer(thread)))
    }

    /// A line of the supervisor's own.
    pub fn say(&self, text: &str) {
        for line in text.lines() {
            self.send(self.prefix("asobi", "1"), line);
        }
    }

    /// Text as it is, without a prefix.
    pub fn show(&self, text: &str) {
        self.send(String::new(), text);
    }

    /// Prints what a child writes until it closes its end. `colour` numbers the nodes.
    pub async fn follow(self, name: String, colour: usize, stream: impl AsyncRead + Unpin) {
        let code = COLOURS[colour % COLOURS.len()].to_string();
        let prefix = self.prefix(&name, &code);
        let mut reader = BufReader::with_capacity(LINE_BYTES, stream);
        let mut line = Vec::new();
        loop {
            let (taken, ended) = match reader.fill_buf().await {
                Ok([]) | Err(_) => break,
                Ok(buffer) => match buffer.iter().position(|byte| *byte == b'\n') {
                    Some(end) => {
                        line.extend_from_slice(&buffer[..end]);
                        (end + 1, true)
                    }
                    None => {
                        line.extend_from_slice(buffer);
                        (buffer.len(), line.len() >= LINE_BYTES)
                    }
                },
            };
            reader.consume(taken);
            if ended {
                self.send(prefix.clone(), &String::from_utf8_lossy(&line));
                line.clear();
            }
        }
        if !line.is_empty() {
            self.send(prefix, &String::from_utf8_lossy(&line));
        }
    }

    fn prefix(&self, name: &str, code: &str) -> String {
        let width = self.width;
        if self.coloured { format!("\x1b[{code}m{name:width$} │\x1b[0m ") } else { format!("{name:width$} | ") }
    }

    fn send(&self, mut prefix: String, line: &str) {
        prefix.push_str(line.trim_end_matches('\r'));
        prefix.push('\n');
        if let Err(TrySendError::Full(_)) = self.lines.try_send(prefix) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn print(lines: &Receiver<String>, dropped: &AtomicU64) {
    let mut out = io::stdout().lock();
    // Whoever read our output may be gone; the cluster runs on without.
    for line in lines {
        let _gone = out.write_all(line.as_bytes());
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            n => drop(writeln!(out, "… {n} lines were dropped because the terminal did not take them …")),
        }
        let _gone = out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_get_their_prefix_and_long_ones_are_cut() {
        let (lines, receiver) = sync_channel(8);
        let output = Output { lines, dropped: Arc::default(), coloured: false, width: 9 };
        let long = "x".repeat(LINE_BYTES + 3);
        let text = format!("one\r\n{long}\nlast");
        output.follow("gateway-0".to_owned(), 0, text.as_bytes()).await;
        let lines: Vec<String> = receiver.iter().collect();
        assert_eq!(lines[0], "gateway-0 | one\n");
        assert!(lines[1..lines.len() - 1].concat().matches('x').count() == long.len());
        assert_eq!(lines[lines.len() - 1], "gateway-0 | last\n");
    }

    #[tokio::test]
    async fn a_terminal_that_takes_nothing_drops_lines() {
        let (lines, receiver) = sync_channel(1);
        let output = Output { lines, dropped: Arc::default(), coloured: false, width: 5 };
        output.clone().follow("a".to_owned(), 0, "1\n2\n3\n".as_bytes()).await;
        assert_eq!(output.dropped.load(Ordering::Relaxed), 2);
        assert_eq!(receiver.recv().unwrap(), "a     | 1\n");
    }
}

//! As much of the DevTools protocol as a play needs.

use std::{path::PathBuf, process::Stdio, time::Instant};

use anyhow::{Context as _, bail, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::support::PATIENCE;

/// An installed browser.
pub struct Chromium(PathBuf);

/// A running one.
pub struct Browser {
    child: Child,
    _profile: tempfile::TempDir,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next_id: u64,
    errors: Vec<String>,
}

/// A window with storage of its own.
pub struct Window {
    session: String,
}

impl Chromium {
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .flat_map(|dir| ["chromium", "chromium-browser", "google-chrome"].map(|name| dir.join(name)))
            .find(|candidate| candidate.is_file())
            .map(Self)
    }

    pub async fn start(self) -> anyhow::Result<Browser> {
        let profile = tempfile::tempdir()?;
        let mut child = Command::new(self.0)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--remote-debugging-port=0",
            ])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("stderr")?).lines();
        let url = timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await? {
                if let Some(url) = line.strip_prefix("DevTools listening on ") {
                    return Ok(url.to_owned());
                }
            }
            bail!("Chromium ended before it listened")
        })
        .await??;
        // Whatever it goes on to say is read and dropped, or its pipe would fill.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let (socket, _) = connect_async(url).await?;
        Ok(Browser { child, _profile: profile, socket, next_id: 1, errors: Vec::new() })
    }
}

impl Browser {
    pub async fn window(&mut self, url: &str) -> anyhow::Result<Window> {
        let context = self.call(None, "Target.createBrowserContext", json!({})).await?;
        let target = self
            .call(
                None,
                "Target.createTarget",
                json!({"url": "about:blank", "browserContextId": context["browserContextId"]}),
            )
            .await?;
        let attached =
            self.call(None, "Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true})).await?;
        let session = attached["sessionId"].as_str().context("sessionId")?.to_owned();
        let mut window = Window { session };
        self.call(Some(&window.session), "Runtime.enable", json!({})).await?;
        self.call(Some(&window.session), "Page.enable", json!({})).await?;
        self.call(Some(&window.session), "Page.navigate", json!({"url": url})).await?;
        self.until(&mut window, "document.readyState === 'complete'").await?;
        Ok(window)
    }

    /// The value of an expression, as JSON text.
    pub async fn evaluate(&mut self, window: &mut Window, expression: &str) -> anyhow::Result<String> {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call(Some(&window.session), "Runtime.evaluate", parameters).await?;
        ensure!(answer.get("exceptionDetails").is_none(), "{expression}: {}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].to_string())
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, window: &mut Window, expression: &str) -> anyhow::Result<()> {
        let started = Instant::now();
        // A moment before the page is there, its elements are not.
        while self
            .evaluate(window, &format!("(() => {{ try {{ return !!({expression}) }} catch {{ return false }} }})()"))
            .await?
            != "true"
        {
            if started.elapsed() > PATIENCE {
                let text = self.evaluate(window, "document.body.innerText").await?;
                bail!("{expression} did not come true; errors {:?}; the page says {text}", self.errors);
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub async fn click(&mut self, window: &mut Window, selector: &str) -> anyhow::Result<()> {
        self.until(
            window,
            &format!("document.querySelector('{selector}') && !document.querySelector('{selector}').disabled"),
        )
        .await?;
        self.evaluate(window, &format!("document.querySelector('{selector}').click()")).await.map(drop)
    }

    pub async fn fill(&mut self, window: &mut Window, selector: &str, text: &str) -> anyhow::Result<()> {
        self.evaluate(window, &format!("document.querySelector('{selector}').value = {}", json!(text))).await.map(drop)
    }

    pub async fn submit(&mut self, window: &mut Window, selector: &str) -> anyhow::Result<()> {
        self.evaluate(window, &format!("document.querySelector('{selector}').requestSubmit()")).await.map(drop)
    }

    /// Holds a key down.
    pub async fn key(&mut self, window: &mut Window, key: &str) -> anyhow::Result<()> {
        let parameters = json!({"type": "rawKeyDown", "key": key, "code": key});
        self.call(Some(&window.session), "Input.dispatchKeyEvent", parameters).await.map(drop)
    }

    /// Keeps a picture of the window where `TEST_PICTURES` names a folder.
    pub async fn keep_picture(&mut self, window: &mut Window, name: &str) -> anyhow::Result<()> {
        let Some(dir) = std::env::var_os("TEST_PICTURES") else { return Ok(()) };
        let answer = self.call(Some(&window.session), "Page.captureScreenshot", json!({})).await?;
        let png = BASE64_STANDARD.decode(answer["data"].as_str().unwrap_or_default())?;
        Ok(std::fs::write(PathBuf::from(dir).join(format!("{name}.png")), png)?)
    }

    /// What the pages' consoles said went wrong.
    pub fn errors(&self) -> Vec<String> {
        self.errors.clone()
    }

    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("Chromium")
    }

    async fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> anyhow::Result<Value> {
        let id = self.next_id;
        self.next_id += 1;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        self.socket.send(Message::text(message.to_string())).await?;
        timeout(PATIENCE, async {
            loop {
                let Message::Text(text) = self.socket.next().await.context("Chromium closed")?? else { continue };
                let mut answer: Value = serde_json::from_str(&text)?;
                if answer["id"] == id {
                    ensure!(answer.get("error").is_none(), "{method}: {}", answer["error"]);
                    return Ok(answer["result"].take());
                }
                match answer["method"].as_str() {
                    Some("Runtime.exceptionThrown") => {
                        self.errors.push(answer["params"]["exceptionDetails"].to_string());
                    }
                    Some("Runtime.consoleAPICalled") if answer["params"]["type"] == "error" => {
                        self.errors.push(answer["params"]["args"].to_string());
                    }
                    _ => {}
                }
            }
        })
        .await?
    }
}

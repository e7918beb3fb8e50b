//! The page, in headless Chromium where it is installed: two windows sign in, talk, and play each other.

#[expect(dead_code, reason = "other plays use other parts of it")]
#[path = "../support/mod.rs"]
mod support;

mod chromium;

use chromium::Chromium;
use support::Cluster;

#[tokio::test]
async fn two_windows_talk_and_play_each_other() -> anyhow::Result<()> {
    let Some(browser) = Chromium::find() else {
        eprintln!("skipped: no Chromium is installed");
        return Ok(());
    };
    let cluster = Cluster::new().start().await?;
    let mut browser = browser.start().await?;
    let http = |i: usize| cluster.gateway(i).http.expect("http");
    let mut ada = browser.window(&format!("{}/", http(0))).await?;
    let mut bo = browser.window(&format!("{}/", http(1))).await?;

    for window in [&mut ada, &mut bo] {
        browser.click(window, "#sign-in").await?;
        browser.until(window, "document.querySelector('#node').textContent.includes('gateway-')").await?;
    }
    browser.fill(&mut ada, "#text", "hello from the first window").await?;
    browser.submit(&mut ada, "#say").await?;
    browser
        .until(&mut bo, "document.querySelector('#chat').textContent.includes('hello from the first window')")
        .await?;

    for window in [&mut ada, &mut bo] {
        browser.click(window, "#play").await?;
    }
    // Both hop to the match's host, and one of them shoots until somebody has won.
    for window in [&mut ada, &mut bo] {
        browser.until(window, "document.querySelector('#match-node').textContent.includes('match-')").await?;
        browser.until(window, "document.querySelector('#node').textContent.includes('match-')").await?;
        browser.until(window, "document.querySelector('#scores').textContent.includes('s left')").await?;
    }
    browser.keep_picture(&mut ada, "arena").await?;
    browser.key(&mut ada, " ").await?;
    browser.until(&mut ada, "document.querySelector('#wait').textContent === 'You won!'").await?;
    browser.until(&mut bo, "document.querySelector('#wait').textContent.includes('won.')").await?;
    assert_eq!(browser.errors(), Vec::<String>::new(), "the pages' consoles are clean");
    browser.stop().await?;
    cluster.stop().await
}

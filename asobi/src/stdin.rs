use tokio::sync::oneshot;

/// Returns when standard input ends. A supervisor holds its other end and writes nothing.
///
/// Where it cannot be watched the future never ends: a process too many is better than one too few.
pub async fn ended() {
    let (tell, told) = oneshot::channel();
    // A thread of its own: a blocking read cannot be cancelled, and the runtime would wait for it.
    let watched = std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let _ended = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _listening = tell.send(());
    });
    if watched.is_err() || told.await.is_err() {
        std::future::pending::<()>().await;
    }
}

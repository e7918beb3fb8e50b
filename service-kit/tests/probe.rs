//! The health check as a container starts it: against the server that every process has, and against what is none.

use std::{net::TcpListener, process::ExitCode, time::Duration};

use asobi_service_kit::{
    Config, ConfigArgs, Readiness, Shutdown, probe,
    server::{bind, serve_metrics},
    service,
};

fn at(listen: &str) -> Config {
    Config::with_sets([("metrics.listen", listen)]).unwrap()
}

/// What `--health-check` ends with; it never starts the service.
fn exit_code(listen: &str) -> ExitCode {
    let args = ConfigArgs { health_check: true, metrics_listen: Some(listen.to_owned()), ..ConfigArgs::default() };
    service::main("gateway", &args, async |_, _| unreachable!("nothing is started"))
}

#[tokio::test]
async fn a_process_that_is_not_ready_is_alive_and_one_that_is_gone_is_not() {
    let shutdown = Shutdown::manual(Duration::from_secs(30));
    let (listener, address) = bind("metrics.listen", "127.0.0.1:0").await.unwrap();
    serve_metrics(listener, Readiness::new(), &shutdown);
    let everywhere = format!("0.0.0.0:{}", address.port());

    let alive = tokio::task::spawn_blocking(move || {
        assert_eq!(probe::live(&at(&everywhere)), Ok(()));
        exit_code(&everywhere)
    });
    assert_eq!(format!("{:?}", alive.await.unwrap()), format!("{:?}", ExitCode::SUCCESS));

    shutdown.begin();
    shutdown.finished().await;
    let gone = tokio::task::spawn_blocking(move || {
        let problem = probe::live(&at(&address.to_string())).unwrap_err();
        assert!(problem.contains("does not answer"), "{problem}");
        exit_code(&address.to_string())
    });
    assert_eq!(format!("{:?}", gone.await.unwrap()), format!("{:?}", ExitCode::FAILURE));
}

#[test]
fn a_process_that_hangs_is_waited_for_no_longer_than_two_seconds() {
    // The kernel takes the connection; nobody ever reads from it.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let problem = probe::live(&at(&hangs.local_addr().unwrap().to_string())).unwrap_err();
    assert!(problem.contains("does not answer"), "{problem}");
}

#[test]
fn whatever_else_listens_there_is_not_this_process() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let answers = std::thread::spawn(move || {
        use std::io::Write as _;
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap();
        // Closed only when the other side has gone: unread bytes would reset the connection under its feet.
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    });
    let problem = probe::live(&at(&address)).unwrap_err();
    assert!(problem.contains("404 Not Found"), "{problem}");
    answers.join().unwrap();
}

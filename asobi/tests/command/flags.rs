//! What the command says about itself, and about mistakes.

use super::child::output;

const SERVICES: [&str; 4] = ["gateway", "match-service", "matchmaker", "social-service"];
const SERVICE_FLAGS: [&str; 7] =
    ["--config", "--set", "--node-id", "--database-url", "--http-listen", "--grpc-listen", "--metrics-listen"];
const DEV_FLAGS: [&str; 12] = [
    "--gateways",
    "--match-hosts",
    "--matchmakers",
    "--social-services",
    "--games",
    "--port",
    "--data-dir",
    "--database-url",
    "--fresh",
    "--no-restart",
    "--ready-file",
    "--set",
];

/// What it prints when all is well.
async fn printed(arguments: &[&str]) -> anyhow::Result<String> {
    let output = output(arguments, &[]).await?;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// What it says when it refuses its configuration.
async fn refused(arguments: &[&str], environment: &[(&str, &str)], named: &[&str]) -> anyhow::Result<()> {
    let output = output(arguments, environment).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{arguments:?}: {said}");
    for part in named {
        assert!(said.contains(part), "{arguments:?}: {part} is not in:\n{said}");
    }
    Ok(())
}

#[tokio::test]
async fn help_names_every_command_and_flag() -> anyhow::Result<()> {
    let help = printed(&["--help"]).await?;
    for command in SERVICES.into_iter().chain(["dev", "migrate", "ctl", "bench", "config", "postgres"]) {
        assert!(help.contains(&format!("  {command} ")), "{command} is not in:\n{help}");
    }
    for command in SERVICES.into_iter().chain(["migrate"]) {
        let help = printed(&[command, "--help"]).await?;
        for flag in SERVICE_FLAGS {
            assert!(help.contains(flag), "{command}: {flag} is not in:\n{help}");
        }
    }
    for (command, flags) in [
        (&["dev"][..], &DEV_FLAGS[..]),
        (&["config"], &["--effective"]),
        (&["postgres"], &["--data-dir", "--fresh"]),
        (&["ctl", "nodes"], &["--json", "--database-url"]),
        (&["ctl", "queue"], &["--json", "--watch"]),
        (&["bench", "heartbeat"], &["--json"]),
        (&["bench", "chat"], &["--json", "--baseline"]),
        (&["bench", "mixed"], &["--rounds", "--progress", "--quiet", "--out", "--compare", "--fail-above", "--curve"]),
        (&["bench", "presence"], &["--degree", "--churn", "--baseline"]),
        (&["bench", "leaderboard"], &["--reads", "--baseline"]),
        (&["bench", "compare"], &["--fail-above", "--json"]),
    ] {
        let help = printed(&[command, &["--help"]].concat()).await?;
        for flag in flags {
            assert!(help.contains(flag), "{command:?}: {flag} is not in:\n{help}");
        }
    }
    assert!(printed(&["--version"]).await?.starts_with("asobi "));
    Ok(())
}

#[tokio::test]
async fn every_mistake_is_named_at_once() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("asobi.toml");
    std::fs::write(&file, "[limits]\nframes_per_second = \"many\"\n[nowhere]\nx = 1\n")?;
    let file = file.display().to_string();
    for service in SERVICES {
        let arguments = [
            service,
            "--config",
            &file,
            "--set",
            "node.lease_ms=soon",
            "--set",
            "chat.bach=7",
            "--http-listen",
            "nowhere",
        ];
        let named = [
            "limits.frames_per_second",
            &file,
            "nowhere",
            "node.lease_ms",
            "soon",
            "chat.bach",
            "chat.batch",
            "http.listen",
            "ASOBI_AUTH_GUEST",
        ];
        refused(&arguments, &[("ASOBI_AUTH_GUEST", "perhaps")], &named).await?;
        refused(&[service, "--nonsense"], &[], &["--nonsense"]).await?;
    }
    refused(
        &["dev", "--games", "/nowhere/games", "--set", "match.capacity=-1", "--set", "x=1"],
        &[],
        &["/nowhere/games", "match.capacity", "x"],
    )
    .await?;
    refused(&["dev", "--gateways", "0"], &[], &["--gateways"]).await?;
    refused(&["dev", "--fresh", "--database-url", "postgres://x"], &[], &["--fresh", "--database-url"]).await?;
    refused(&["nonsense"], &[], &["nonsense"]).await?;
    refused(&[], &[], &["Usage"]).await
}

#[tokio::test]
async fn the_printed_configuration_is_one() -> anyhow::Result<()> {
    let printed_defaults = printed(&["config"]).await?;
    let defaults: toml::Table = toml::from_str(&printed_defaults)?;
    for section in ["node", "database", "limits", "chat", "auth", "leaderboards", "matchmaker", "match"] {
        assert!(defaults[section].is_table(), "{section}");
    }
    // As printed it is accepted, and changes nothing.
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("asobi.toml");
    std::fs::write(&file, &printed_defaults)?;
    let effective = printed(&["config", "--effective", "--config", &file.display().to_string()]).await?;
    let effective: toml::Table = toml::from_str(&effective)?;
    let keys = |table: &toml::Table| -> Vec<String> {
        let of = |(section, keys): (&String, &toml::Value)| {
            let names = keys.as_table().into_iter().flat_map(toml::Table::keys);
            names.map(|key| format!("{section}.{key}")).collect::<Vec<_>>()
        };
        table.iter().flat_map(of).collect()
    };
    assert_eq!(keys(&effective), keys(&defaults));
    assert_eq!(effective["limits"], defaults["limits"]);

    let changed = printed(&["config", "--effective", "--set", "limits.frames_per_second=7"]).await?;
    let changed: toml::Table = toml::from_str(&changed)?;
    assert_eq!(changed["limits"]["frames_per_second"].as_integer(), Some(7));
    Ok(())
}

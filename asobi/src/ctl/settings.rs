//! `asobi ctl config`: what is in force at a node.

use asobi_proto::ops_v1::{ConfigValue, GetConfigRequest, GetConfigResponse, ops_service_client::OpsServiceClient};
use asobi_service_kit::grpc::with_deadline;
use clap::Args;
use serde_json::{Value, json};

use super::{Ctl, DEADLINE, output, refusal};

/// The configuration in force at a node, and where each value comes from; secrets are hidden
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The node's id; without it, any node's
    node: Option<String>,
    /// Also what was not set anywhere
    #[arg(long)]
    all: bool,
}

pub async fn run(args: &ConfigArgs, ctl: &Ctl) -> anyhow::Result<()> {
    let request = || with_deadline(GetConfigRequest {}, DEADLINE);
    let config = match &args.node {
        Some(node_id) => {
            let node = ctl.living(node_id).await?;
            let answer = OpsServiceClient::new(ctl.channel(&node)).get_config(request()).await;
            answer.map_err(|status| refusal(&status))?.into_inner()
        }
        None => ctl.ask(None, async |channel| OpsServiceClient::new(channel).get_config(request()).await).await?,
    };
    if ctl.json {
        output::json(&object(&config));
    } else {
        output::line(&text(&config, args.all));
    }
    Ok(())
}

fn object(config: &GetConfigResponse) -> Value {
    let value = |value: &ConfigValue| json!({"key": value.key, "value": value.value, "source": value.source});
    let values: Vec<Value> = config.values.iter().map(value).collect();
    json!({"node_id": config.node_id, "incarnation": config.incarnation, "values": values})
}

fn text(config: &GetConfigResponse, all: bool) -> String {
    let wanted = |value: &&ConfigValue| all || value.source != "default";
    let rows: Vec<[String; 3]> = config
        .values
        .iter()
        .filter(wanted)
        .map(|value| [value.key.clone(), value.value.clone(), value.source.clone()])
        .collect();
    let rest = if all { "" } else { "; --all shows the defaults, too" };
    format!("{}{rest}\n{}", config.node_id, output::table(["key", "value", "source"], &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_shown_first_of_all() {
        let value = |key: &str, source: &str| ConfigValue { key: key.into(), value: "1".into(), source: source.into() };
        let values = vec![value("a.b", "default"), value("c.d", "--set")];
        let config = GetConfigResponse { node_id: "gateway-0".into(), incarnation: 1, values };
        assert_eq!(
            text(&config, false),
            "gateway-0; --all shows the defaults, too\nKEY  VALUE  SOURCE\nc.d  1      --set"
        );
        assert!(text(&config, true).contains("a.b"));
    }
}

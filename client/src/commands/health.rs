//! `client health`: the daemon as a whole and each of its services.

use serde_json::json;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::cli::Global;
use crate::connect::Daemon;
use crate::error::Error;
use crate::output::Output;
use crate::output::table::{Column, Table};

/// The empty name is the daemon as a whole.
const SERVICES: [&str; 5] =
    ["", TRAINING, "hone.v1.InferenceService", "hone.v1.DatasetService", "hone.v1.ModelService"];

const TRAINING: &str = "hone.v1.TrainingService";
/// The status of a service that the other side does not have.
const UNKNOWN: &str = "unknown";

pub(super) async fn run(global: &Global, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let mut table = Table::new([Column::left("service"), Column::left("status")]);
    let mut idle = Vec::new();
    for service in SERVICES {
        let status = check(&daemon, service).await?;
        // Another gRPC server has a health service too, but none of the daemon's.
        if status == UNKNOWN && service == TRAINING {
            return Err(Error::no_daemon(daemon.url()));
        }
        let name = if service.is_empty() { "the daemon" } else { service };
        let serving = status == "serving";
        if !serving {
            idle.push(name);
        }
        if output.is_json() {
            output.json(&json!({"service": service, "status": status}))?;
        } else {
            let paint = output.paint();
            let words = status.replace('_', " ");
            let status = if serving { paint.green(&words) } else { paint.red(&words) };
            table.row([name.to_owned(), status]);
        }
    }
    if !output.is_json() {
        output.text(&table.lines(output.width()).join("\n"))?;
    }
    if idle.is_empty() { Ok(()) } else { Err(Error::other(format!("not serving: {}", idle.join(", ")))) }
}

async fn check(daemon: &Daemon, service: &str) -> Result<&'static str, Error> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let mut health = daemon.health();
    let check = async {
        match health.check(request).await {
            Err(status) if status.code() == Code::NotFound => Ok(tonic::Response::new(None)),
            other => other.map(|response| tonic::Response::new(Some(response.into_inner().status()))),
        }
    };
    Ok(match daemon.call(check).await? {
        Some(ServingStatus::Serving) => "serving",
        Some(ServingStatus::NotServing) => "not_serving",
        _ => UNKNOWN,
    })
}

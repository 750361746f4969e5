//! `/healthz`: is the agent itself well. Reasons are told only at `/healthz/<name>`.

use std::fmt::Write as _;

use http::StatusCode;

use crate::{
    HealthCheck,
    dispatch::Context,
    query::Query,
    reply::{self, Reply},
};

/// Every check; `verbose` and `exclude` count where a query is passed.
pub fn all(context: &Context, query: Option<&Query>) -> Reply {
    report(&checks(context), query)
}

pub fn one(context: &Context, name: &str) -> Reply {
    match checks(context).iter().find(|check| check.name == name) {
        None => reply::not_found(),
        Some(check) => match (check.check)() {
            Ok(()) => reply::text(StatusCode::OK, "ok"),
            Err(reason) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {reason}\n")),
        },
    }
}

/// `ping` and `log` always hold here: logging never blocks the agent.
fn checks(context: &Context) -> Vec<HealthCheck> {
    let always = ["ping", "log"].map(|name| HealthCheck::new(name, || Ok(())));
    always.into_iter().chain(context.deps.health.iter().cloned()).collect()
}

fn checked(check: &HealthCheck) -> Result<(), String> {
    let outcome = (check.check)();
    metrics::slis::health_checked(check.name, outcome.is_ok());
    outcome
}

fn report(checks: &[HealthCheck], query: Option<&Query>) -> Reply {
    let excluded: Vec<&str> = query.map(|query| query.all("exclude").collect()).unwrap_or_default();
    let mut lines = String::new();
    let mut failed = false;
    for check in checks {
        let name = check.name;
        let _ = if excluded.contains(&name) {
            writeln!(lines, "[+]{name} excluded: ok")
        } else if let Err(reason) = checked(check) {
            tracing::warn!(check = name, reason, "health check failed");
            failed = true;
            writeln!(lines, "[-]{name} failed: reason withheld")
        } else {
            writeln!(lines, "[+]{name} ok")
        };
    }
    if failed {
        return reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}healthz check failed\n"));
    }
    if query.is_some_and(|query| query.first("verbose").is_some()) {
        return reply::text(StatusCode::OK, format!("{lines}healthz check passed\n"));
    }
    reply::text(StatusCode::OK, "ok")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn checks() -> [HealthCheck; 2] {
        [HealthCheck::new("ping", || Ok(())), HealthCheck::new("syncloop", || Err("stuck at x".into()))]
    }

    async fn body(reply: Reply) -> (StatusCode, String) {
        let status = reply.status();
        let bytes = reply.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_failure_withholds_its_reason() {
        let (status, text) = body(report(&checks(), None)).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(text, "[+]ping ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n");
    }

    #[tokio::test]
    async fn an_excluded_check_does_not_count() {
        let query = Query::parse(Some("exclude=syncloop"));
        assert_eq!(body(report(&checks(), Some(&query))).await, (StatusCode::OK, "ok".into()));
    }
}

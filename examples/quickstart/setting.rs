//! What surrounds the agent: the secret, the provider, three policies.

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use portcullis::audit::AuditKeys;
use portcullis::cost::{Budget, Snapshot, Tokens};
use portcullis::scope::ScopePolicy;
use portcullis::{AgentId, Governance, Secret, Usd};

use crate::stand_in;

/// Where the model is.
pub(crate) struct Provider {
    pub(crate) client: Client<OpenAIConfig>,
    pub(crate) base: String,
    pub(crate) model: String,
}

/// The secret of earlier runs, or a new one: without it the trail could not be verified again.
pub(crate) fn keys(file: &Path) -> Result<AuditKeys, Box<dyn Error>> {
    let secret = if let Ok(text) = fs::read_to_string(file) {
        Secret::parse(&text)?
    } else {
        let secret = Secret::generate()?;
        // Readable by its owner only. In production it comes from a key management service.
        let mut out = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)?;
        writeln!(out, "{}", secret.to_hex().as_str())?;
        secret
    };
    Ok(AuditKeys::single(secret))
}

/// The real endpoint if there is a key for it, else the stand-in.
pub(crate) async fn provider() -> Result<Provider, Box<dyn Error>> {
    // TLS is the application's choice; here, the provider that the database's uses too.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let real = std::env::var("OPENAI_API_KEY")
        .ok()
        .filter(|key| !key.is_empty());
    let (base, key) = if let Some(key) = real {
        let base = std::env::var("OPENAI_BASE_URL");
        (
            base.unwrap_or_else(|_| "https://api.openai.com/v1".to_owned()),
            key,
        )
    } else {
        println!("OPENAI_API_KEY is not set: a stand-in answers for the model");
        (stand_in::start().await?, "none".to_owned())
    };
    let config = OpenAIConfig::new()
        .with_api_base(base.trim_end_matches('/'))
        .with_api_key(key);
    Ok(Provider {
        client: Client::with_config(config),
        base: base.trim_end_matches('/').to_owned(),
        model: std::env::var("OPENAI_MODEL").unwrap_or_else(|_| "gpt-4o-mini".to_owned()),
    })
}

/// Policy one: what the agent may use. Two and three: what a session and a day may cost.
pub(crate) async fn policies(
    gov: &Governance,
    provider: &Provider,
) -> Result<AgentId, Box<dyn Error>> {
    let agent = AgentId::parse("billing-agent")?;
    gov.scope()
        .register(
            ScopePolicy::new(agent.clone())
                .allow_tools(["read_invoice", "send_email"])?
                .hide_tools(["delete_customer"])?
                .allow_models([provider.model.as_str()])?
                .allow_apis([format!("{}/*", provider.base)])?,
        )
        .await?;
    gov.cost()
        .register(
            Budget::for_agent(agent.clone())
                .per_session("$0.0004".parse::<Usd>()?)
                .per_session(Tokens(20_000))
                .per_day(Usd::dollars(2)),
        )
        .await?;
    Ok(agent)
}

/// The budgets, as a table.
pub(crate) fn print_budgets(snapshot: &Snapshot) {
    println!("{snapshot}");
}

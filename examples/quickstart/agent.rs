//! The agent: a loop over async-openai that uses tools.

use std::error::Error;
use std::io::Write as _;

use async_openai::types::chat::{
    ChatCompletionMessageToolCalls, CreateChatCompletionRequest, CreateChatCompletionResponse,
};
use futures_util::StreamExt as _;
use portcullis::adapters::openai::{governed, refusal};
use portcullis::{Call, Governance, Permit, Principal};
use serde_json::{Value, json};

use crate::setting::Provider;

const TASK: &str = "Read invoice inv_381, then mail its total to customer c_381. Use the tools.";
/// More than the agent needs; a loop has a bound of its own too.
const MAX_TURNS: usize = 6;

/// Every tool of the application. The agent's scope decides which of them the model sees.
fn tools() -> Vec<Value> {
    let tool = |name: &str, description: &str, argument: &str| {
        json!({"type": "function", "function": {
            "name": name, "description": description,
            "parameters": {"type": "object", "required": [argument],
                           "properties": {argument: {"type": "string"}}}}})
    };
    vec![
        tool("read_invoice", "Reads an invoice.", "invoice"),
        tool("send_email", "Mails a customer.", "to"),
        tool("refund_payment", "Refunds an invoice.", "invoice"),
        tool("delete_customer", "Deletes a customer.", "customer"),
    ]
}

/// One task, from the question to the streamed answer.
pub(crate) async fn work(
    gov: &Governance,
    me: &Principal,
    provider: &Provider,
) -> Result<(), Box<dyn Error>> {
    // The one line that puts the client behind the gates.
    let client = governed(gov, me, provider.client.clone());

    let shown = gov.scope().filter_tools(me, tools());
    let names: Vec<&str> = shown
        .iter()
        .filter_map(|tool| tool["function"]["name"].as_str())
        .collect();
    println!(
        "the application has 4 tools; the model is shown {}",
        names.join(" and ")
    );

    let mut messages = vec![json!({"role": "user", "content": TASK})];
    for _ in 0..MAX_TURNS {
        let request = request(provider, &messages, &shown)?;
        let answer: CreateChatCompletionResponse = client.chat().create(request).await?;
        let Some(choice) = answer.choices.into_iter().next() else {
            break;
        };
        let Some(calls) = choice
            .message
            .tool_calls
            .clone()
            .filter(|calls| !calls.is_empty())
        else {
            break;
        };
        messages.push(serde_json::to_value(&choice.message)?);
        for call in calls {
            let ChatCompletionMessageToolCalls::Function(call) = call else {
                continue;
            };
            let result = use_tool(gov, me, &call.function.name, &call.function.arguments).await;
            println!("{:<16} {result}", call.function.name);
            messages.push(json!({"role": "tool", "tool_call_id": call.id, "content": result}));
        }
    }

    messages.push(json!({"role": "user", "content": "Say in one sentence what you did."}));
    let mut stream = client
        .chat()
        .create_stream(request(provider, &messages, &[])?)
        .await?;
    print!("{:<16} ", "the answer");
    while let Some(chunk) = stream.next().await {
        for choice in chunk?.choices {
            print!("{}", choice.delta.content.unwrap_or_default());
            std::io::stdout().flush()?;
        }
    }
    println!();
    Ok(())
}

/// One tool call, through every gate. What the model is told of a refusal, it can act on.
async fn use_tool(gov: &Governance, me: &Principal, name: &str, arguments: &str) -> String {
    let args: Value = serde_json::from_str(arguments).unwrap_or(Value::Null);
    let call = Call::tool(me, name).args(&args);
    let done = gov
        .run(&call, async |_: &Permit| match name {
            "read_invoice" => Ok("invoice inv_381: 3 items, total $1,250.00"),
            "send_email" => Ok("queued for c_381"),
            _ => Err(std::io::Error::other("no such tool")),
        })
        .await;
    done.map_or_else(|error| error.to_string(), str::to_owned)
}

/// Small talk, until the session's budget says no.
pub(crate) async fn spend_until_refused(
    gov: &Governance,
    me: &Principal,
    provider: &Provider,
) -> Result<(), Box<dyn Error>> {
    let client = governed(gov, me, provider.client.clone());
    let messages = [json!({"role": "user", "content": "Tell me something about ledgers."})];
    for answered in 0.. {
        let request = request(provider, &messages, &[])?;
        let answer: Result<CreateChatCompletionResponse, _> = client.chat().create(request).await;
        let Err(error) = answer else { continue };
        // A refusal comes back typed, through the client's own error.
        let Some(refusal) = refusal(&error) else {
            return Err(error.into());
        };
        println!("{answered} more answers, then: {refusal}");
        break;
    }
    Ok(())
}

fn request(
    provider: &Provider,
    messages: &[Value],
    tools: &[Value],
) -> Result<CreateChatCompletionRequest, serde_json::Error> {
    let mut request = json!({
        "model": provider.model, "messages": messages, "max_completion_tokens": 120,
    });
    if !tools.is_empty() {
        request["tools"] = tools.into();
    }
    serde_json::from_value(request)
}

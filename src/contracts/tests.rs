use super::model::About;
use super::{ApprovedBy, Asked, ask};
use crate::call::{Call, Principal};
use crate::error::ErrorKind;
use crate::ids::AgentId;

#[tokio::test]
async fn approved_means_by_somebody_who_was_asked_about_this_very_digest() {
    let me = Principal::agent(AgentId::parse("a").unwrap());
    let call = Call::tool(&me, "refund_payment").args(&[500]);
    let about = About::of(&call.parts().unwrap(), &[7; 32]);
    let nobody = ask::approved(None, &about, &[7; 32]).await;
    assert_eq!(nobody, Err("not_approved"));

    let known = ApprovedBy(Box::new(|who, digest| -> Asked {
        assert_eq!(who.agent_id().as_str(), "a");
        Box::pin(async move {
            match digest {
                [7, ..] => Ok(true),
                [8, ..] => Ok(false),
                _ => Err(ErrorKind::Unavailable),
            }
        })
    }));
    for (first, found) in [
        (7, Ok(())),
        (8, Err("not_approved")),
        (9, Err("unavailable")),
    ] {
        let answer = ask::approved(Some(&known), &about, &[first; 32]).await;
        assert_eq!(answer, found);
    }
}

#[test]
fn what_is_asked_about_shows_nothing_of_the_arguments() {
    let me = Principal::agent(AgentId::parse("a").unwrap());
    let call = Call::tool(&me, "refund_payment").args(&["pay_381"]);
    let about = About::of(&call.parts().unwrap(), &[7; 32]);
    assert!(about.args().is_some_and(|args| args.contains("pay_381")));
    assert!(!format!("{about:?}").contains("pay_381"));
}

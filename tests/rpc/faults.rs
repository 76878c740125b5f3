//! When the model breaks: an error for those it concerns, and the server goes on.

use babelward::{proto::Label, registry::ModelState};
use tonic::Code;

use crate::rig::{Rig, TARGET, classify, generate, reason};

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_are_none_never_become_a_verdict() {
    let rig = Rig::start().await;
    let status = rig
        .safety()
        .await
        .classify(classify(&["[nan]"]))
        .await
        .unwrap_err();
    assert_eq!(reason(&status, Code::Internal).0, "NUMERIC_FAULT");
    let mut stream = rig
        .generation()
        .await
        .generate(generate("[nan]"))
        .await
        .unwrap()
        .into_inner();
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&status, Code::Internal).0, "NUMERIC_FAULT");
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn device_faults_and_panics_are_told_apart_and_survived() {
    let rig = Rig::start().await;
    let mut client = rig.safety().await;
    for (marker, name) in [("[device]", "DEVICE_FAULT"), ("[panic]", "WORKER_PANIC")] {
        let status = client.classify(classify(&[marker])).await.unwrap_err();
        assert_eq!(reason(&status, Code::Internal).0, name);
        let response = client
            .classify(classify(&["[unsafe]"]))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(response.verdict.unwrap().label(), Label::Unsafe);
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_in_a_row_show_as_failed_until_an_answer() {
    let rig = Rig::start().await;
    let mut client = rig.safety().await;
    let state = || rig.registry.state(rig.registry.find(TARGET).unwrap());
    for _ in 0..2 {
        client.classify(classify(&["[device]"])).await.unwrap_err();
        assert_eq!(state(), ModelState::Ready);
    }
    client.classify(classify(&["[device]"])).await.unwrap_err();
    assert_eq!(state(), ModelState::Failed);
    client.classify(classify(&["fine"])).await.unwrap();
    assert_eq!(state(), ModelState::Ready);
    rig.stop().await;
}

//! grpc.health.v1 per service, and reflection in both versions.

use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::rig::{Rig, classify};

const SERVICES: [&str; 5] = [
    "babelward.v1.GenerationService",
    "babelward.v1.SafetyService",
    "babelward.v1.ScoringService",
    "babelward.v1.ModelService",
    "babelward.v1.AdminService",
];

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_serves_and_unknown_ones_are_not_found() {
    let rig = Rig::start().await;
    let mut health = HealthClient::new(rig.channel().await);
    // A first call makes sure that the server has looked at its models.
    rig.safety().await.classify(classify(&["hi"])).await.unwrap();
    for service in SERVICES.into_iter().chain([""]) {
        let answer = health.check(of(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let status = health.check(of("babelward.v1.NoSuchService")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_model_takes_its_services_down_and_its_answer_brings_them_back() {
    let rig = Rig::start().await;
    let mut health = HealthClient::new(rig.channel().await);
    let mut safety = rig.safety().await;
    safety.classify(classify(&["hi"])).await.unwrap();
    let mut watch = health
        .watch(of("babelward.v1.SafetyService"))
        .await
        .unwrap()
        .into_inner();
    let mut becomes = async |wanted: ServingStatus| {
        while watch.message().await.unwrap().unwrap().status() != wanted {}
    };
    becomes(ServingStatus::Serving).await;
    for _ in 0..3 {
        safety.classify(classify(&["[device]"])).await.unwrap_err();
    }
    becomes(ServingStatus::NotServing).await;
    let answer = health
        .check(of("babelward.v1.ModelService"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    safety.classify(classify(&["fine"])).await.unwrap();
    becomes(ServingStatus::Serving).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_our_services_in_both_versions() {
    let rig = Rig::start().await;
    let mut wanted: Vec<String> = SERVICES.into_iter().map(str::to_owned).collect();
    // It serves where an estimator is configured.
    wanted.push("babelward.v1.QualityService".to_owned());
    wanted.push("grpc.health.v1.Health".to_owned());

    macro_rules! listed {
        ($version:ident) => {{
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
            };
            let mut client = ServerReflectionClient::new(rig.channel().await);
            let request = ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let stream = client
                .server_reflection_info(tokio_stream::iter([request]))
                .await
                .unwrap();
            let answer = stream.into_inner().message().await.unwrap().unwrap();
            match answer.message_response {
                Some(MessageResponse::ListServicesResponse(list)) => list
                    .service
                    .into_iter()
                    .map(|service| service.name)
                    .collect::<Vec<_>>(),
                other => panic!("{other:?}"),
            }
        }};
    }
    for listed in [listed!(v1), listed!(v1alpha)] {
        for service in &wanted {
            assert!(listed.contains(service), "{service} is not in {listed:?}");
        }
    }
    rig.stop().await;
}

/// Every file that a client asks for to read the details of an error, starting from the types it finds there.
#[tokio::test(flavor = "multi_thread")]
async fn reflection_describes_what_errors_carry() {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };

    let rig = Rig::start().await;
    let mut client = ServerReflectionClient::new(rig.channel().await);
    let mut asked = BTreeSet::new();
    let mut messages = BTreeSet::new();
    let types = [
        "BadRequest",
        "ErrorInfo",
        "RequestInfo",
        "ResourceInfo",
        "RetryInfo",
        "Status",
    ];
    let mut open: Vec<_> = types
        .iter()
        .map(|name| MessageRequest::FileContainingSymbol(format!("google.rpc.{name}")))
        .collect();
    while let Some(question) = open.pop() {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(question.clone()),
        };
        let stream = client
            .server_reflection_info(tokio_stream::iter([request]))
            .await
            .unwrap();
        let answer = stream.into_inner().message().await.unwrap().unwrap();
        let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else {
            panic!("{question:?}: {answer:?}");
        };
        for file in files.file_descriptor_proto {
            let file = prost_types::FileDescriptorProto::decode(file.as_slice()).unwrap();
            for message in &file.message_type {
                messages.insert(format!("{}.{}", file.package(), message.name()));
            }
            let needed = file.dependency.into_iter();
            let new = needed.filter(|name| asked.insert(name.clone()));
            open.extend(new.map(MessageRequest::FileByFilename));
        }
    }
    for name in types {
        assert!(
            messages.contains(&format!("google.rpc.{name}")),
            "{name}: {messages:?}"
        );
    }
    assert!(asked.contains("google/protobuf/any.proto"), "{asked:?}");
    rig.stop().await;
}

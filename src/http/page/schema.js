// The calls and messages of the server that this page uses. A test holds the two tables against the proto files, and nothing
// is written into a request or read from an answer that is not in them.

// Each call with its request and its answer.
export const METHODS = {
  "/grpc.health.v1.Health/Check": ["grpc.health.v1.HealthCheckRequest", "grpc.health.v1.HealthCheckResponse"],
  "/babelward.v1.ModelService/ListModels": ["babelward.v1.ListModelsRequest", "babelward.v1.ListModelsResponse"],
  "/babelward.v1.ModelService/GetServerStats": ["babelward.v1.GetServerStatsRequest", "babelward.v1.GetServerStatsResponse"],
  "/babelward.v1.SafetyService/ListPolicies": ["babelward.v1.ListPoliciesRequest", "babelward.v1.ListPoliciesResponse"],
  "/babelward.v1.SafetyService/Classify": ["babelward.v1.ClassifyRequest", "babelward.v1.ClassifyResponse"],
  "/babelward.v1.SafetyService/GuardStream": ["babelward.v1.GuardStreamRequest", "babelward.v1.GuardStreamResponse"],
  "/babelward.v1.GenerationService/Generate": ["babelward.v1.GenerateRequest", "babelward.v1.GenerateResponse"]
};

// Each message with its fields and their types: string, bytes, boolean, enum, number, int64 (a string in JSON), duration,
// timestamp, or the name of a message. "[T]" is a list, and "T?" a field that may be absent; all other fields that are no
// messages are left out of JSON where they are zero or empty.
export const MESSAGES = {
  "grpc.health.v1.HealthCheckRequest": {},
  "grpc.health.v1.HealthCheckResponse": { "status": "enum" },

  "babelward.v1.ListModelsRequest": { "pageSize": "number", "pageToken": "string" },
  "babelward.v1.ListModelsResponse": { "models": "[babelward.v1.Model]", "nextPageToken": "string", "serverVersion": "string" },
  "babelward.v1.Model": {
    "name": "string", "capabilities": "[enum]", "state": "enum", "error": "string", "architecture": "string",
    "parameters": "int64", "dtype": "string", "precision": "enum", "instructionSet": "string", "device": "string",
    "contextTokens": "number", "weightBytes": "int64", "scratchBytes": "int64", "kvBytes": "int64",
    "queueDepth": "number", "inFlight": "number", "pinned": "boolean"
  },
  "babelward.v1.ListPoliciesRequest": {},
  "babelward.v1.ListPoliciesResponse": {
    "policies": "[babelward.v1.ConfiguredPolicy]", "decisionPolicies": "[babelward.v1.ConfiguredDecisionPolicy]"
  },
  "babelward.v1.ConfiguredPolicy": { "policy": "babelward.v1.Policy" },
  "babelward.v1.Policy": { "name": "string" },
  "babelward.v1.ConfiguredDecisionPolicy": { "name": "string", "version": "number", "isDefault": "boolean" },

  "babelward.v1.GetServerStatsRequest": {},
  "babelward.v1.GetServerStatsResponse": {
    "models": "[babelward.v1.ResidentModelStats]", "verdicts": "[babelward.v1.VerdictCounts]", "readTime": "timestamp"
  },
  "babelward.v1.ResidentModelStats": {
    "names": "[string]", "queueDepth": "number", "inFlight": "number", "kvUsage": "number",
    "computedPromptTokens": "int64", "cachedPromptTokens": "int64", "generatedTokens": "int64"
  },
  "babelward.v1.VerdictCounts": {
    "guard": "string", "safeCount": "int64", "unsafeCount": "int64", "controversialCount": "int64", "undeterminedCount": "int64"
  },

  "babelward.v1.Conversation": { "messages": "[babelward.v1.Message]" },
  "babelward.v1.Message": { "role": "enum", "content": "string" },

  "babelward.v1.ClassifyRequest": {
    "model": "string", "conversation": "babelward.v1.Conversation", "policy": "string?", "decisionPolicy": "string",
    "categoryProbabilities": "boolean", "judge": "enum"
  },
  "babelward.v1.ClassifyResponse": {
    "verdict": "babelward.v1.Verdict", "decision": "babelward.v1.Decision",
    "messageVerdicts": "[babelward.v1.MessageVerdict]", "totalUsage": "babelward.v1.Usage"
  },
  "babelward.v1.MessageVerdict": { "message": "number", "verdict": "babelward.v1.Verdict" },
  "babelward.v1.Verdict": {
    "label": "enum", "unsafeScore": "number?", "labelMass": "number", "categories": "[babelward.v1.CategoryResult]",
    "rawOutput": "string", "usage": "babelward.v1.Usage", "timing": "babelward.v1.Timing",
    "provenance": "babelward.v1.Provenance", "refusal": "enum", "controversialScore": "number?",
    "categoryProbabilities": "[babelward.v1.CategoryProbability]", "messageUses": "[babelward.v1.MessageUse]"
  },
  "babelward.v1.CategoryResult": { "category": "string", "displayName": "string" },
  "babelward.v1.CategoryProbability": { "category": "string", "displayName": "string", "probability": "number" },
  "babelward.v1.MessageUse": { "message": "number", "use": "enum", "reason": "enum" },
  "babelward.v1.Usage": {
    "promptTokens": "number", "completionTokens": "number", "cachedPromptTokens": "number", "forwardPasses": "number"
  },
  "babelward.v1.Timing": {
    "queue": "duration", "prefill": "duration", "decode": "duration", "total": "duration", "maxBatchSize": "number"
  },
  "babelward.v1.Provenance": {
    "serverVersion": "string", "model": "string", "modelDigest": "string", "tokenizerDigest": "string",
    "templateDigest": "string", "dtype": "string", "precision": "string", "instructionSet": "string", "device": "string",
    "deviceNote": "string", "determinism": "enum", "seed": "int64?", "policy": "string", "policyDigest": "string"
  },
  "babelward.v1.Decision": {
    "action": "enum", "reasons": "[babelward.v1.DecisionReason]", "policy": "string", "policyVersion": "number",
    "calibratedProbability": "number?"
  },
  "babelward.v1.DecisionReason": {
    "action": "enum", "subject": "enum", "category": "string", "value": "number?", "threshold": "number?", "classifier": "string"
  },

  "babelward.v1.GuardStreamRequest": {
    "start": "babelward.v1.GuardStart", "chunk": "bytes?", "end": "babelward.v1.GuardEnd"
  },
  "babelward.v1.GuardStart": {
    "model": "string", "conversation": "babelward.v1.Conversation", "policy": "string?", "options": "babelward.v1.GuardOptions",
    "decisionPolicy": "string"
  },
  "babelward.v1.GuardOptions": {
    "mode": "enum", "cadence": "babelward.v1.GuardCadence", "interimThreshold": "number?", "confirmations": "number"
  },
  "babelward.v1.GuardCadence": { "tokens": "number", "sentenceEnd": "boolean?" },
  "babelward.v1.GuardEnd": {},
  "babelward.v1.GuardStreamResponse": {
    "released": "babelward.v1.GuardReleased", "look": "babelward.v1.GuardLook", "retracted": "babelward.v1.GuardRetracted",
    "heartbeat": "babelward.v1.GuardHeartbeat", "ended": "babelward.v1.GuardEnded"
  },
  "babelward.v1.GuardReleased": { "releasedBytes": "int64", "unguarded": "boolean" },
  "babelward.v1.GuardLook": {
    "outcome": "enum", "textBytes": "int64", "isFinal": "boolean", "verdict": "babelward.v1.Verdict",
    "error": "babelward.v1.ItemStatus"
  },
  "babelward.v1.GuardRetracted": { "keptBytes": "int64" },
  "babelward.v1.GuardHeartbeat": { "receivedBytes": "int64", "releasedBytes": "int64" },
  "babelward.v1.GuardEnded": {
    "reason": "enum", "receivedBytes": "int64", "releasedBytes": "int64", "looks": "number", "unguarded": "boolean",
    "verdict": "babelward.v1.Verdict", "error": "babelward.v1.ItemStatus", "decision": "babelward.v1.Decision"
  },
  "babelward.v1.ItemStatus": { "code": "number", "message": "string" },

  "babelward.v1.GenerateRequest": {
    "model": "string", "conversation": "babelward.v1.Conversation", "sampling": "babelward.v1.SamplingParams",
    "stopping": "babelward.v1.StoppingParams", "guard": "babelward.v1.AnswerGuard"
  },
  "babelward.v1.SamplingParams": { "temperature": "number?", "seed": "int64?" },
  "babelward.v1.StoppingParams": { "maxNewTokens": "number" },
  "babelward.v1.AnswerGuard": {
    "model": "string", "policy": "string?", "options": "babelward.v1.GuardOptions", "decisionPolicy": "string"
  },
  "babelward.v1.GenerateResponse": {
    "started": "babelward.v1.GenerateStarted", "delta": "babelward.v1.GenerateDelta",
    "finished": "babelward.v1.GenerateFinished", "look": "babelward.v1.GuardLook",
    "retracted": "babelward.v1.GuardRetracted", "heartbeat": "babelward.v1.GuardHeartbeat"
  },
  "babelward.v1.GenerateStarted": { "promptTokens": "number", "seed": "int64", "provenance": "babelward.v1.Provenance" },
  "babelward.v1.GenerateDelta": { "text": "string", "offsetBytes": "int64" },
  "babelward.v1.GenerateFinished": {
    "finishReason": "enum", "usage": "babelward.v1.Usage", "timing": "babelward.v1.Timing",
    "guard": "babelward.v1.GuardEnded", "decodedAfterDetection": "number?"
  }
};

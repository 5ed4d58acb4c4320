package vision

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestClasses reads errors as servers send them, by their documentation and by what users of theirs reported.
func TestClasses(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tt := range []struct {
		name   string
		status int
		body   string
		header string // "name: value", separated by "; "
		class  Class
		wait   time.Duration
	}{
		{"OpenAI rate limit", 429, `{"error":{"message":"Rate limit reached for gpt-4o-mini in organization org-x on tokens per min (TPM): Limit 200000, Used 199000. Please try again in 1.2s. Visit https://platform.openai.com","type":"tokens","param":null,"code":"rate_limit_exceeded"}}`, "", RateLimited, 1200 * time.Millisecond},
		{"OpenAI rate limit, minutes", 429, `{"error":{"message":"Rate limit reached. Please try again in 6m0s.","type":"requests","code":"rate_limit_exceeded"}}`, "", RateLimited, 6 * time.Minute},
		{"OpenAI rate limit, milliseconds", 429, `{"error":{"message":"Please try again in 28ms.","type":"requests","code":"rate_limit_exceeded"}}`, "retry-after: 1; retry-after-ms: 28", RateLimited, 28 * time.Millisecond},
		{"OpenAI quota", 429, `{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`, "", Quota, 0},
		{"OpenAI credit", 429, `{"error":{"message":"no credits","type":"billing","code":"credit_balance_exhausted"}}`, "", Quota, 0},
		{"OpenAI project's limit", 429, `{"error":{"message":"limit","type":"x","code":"project_spend_limit_exceeded"}}`, "", Quota, 0},
		{"OpenAI billing", 429, `{"error":{"message":"inactive","type":"billing_not_active","code":"billing_not_active"}}`, "", Quota, 0},
		{"OpenAI bad key", 401, `{"error":{"message":"Incorrect API key provided: sk-x***y.","type":"invalid_request_error","code":"invalid_api_key"}}`, "", Denied, 0},
		{"OpenAI model", 404, `{"error":{"message":"The model gpt-9 does not exist or you do not have access to it.","type":"invalid_request_error","code":"model_not_found"}}`, "", NotFound, 0},
		{"OpenAI picture", 400, `{"error":{"message":"You uploaded an unsupported image.","type":"invalid_request_error","code":"invalid_image_format"}}`, "", Invalid, 0},
		{"OpenAI policy", 400, `{"error":{"message":"Your request was rejected as a result of our safety system.","type":"image_generation_user_error","code":"content_policy_violation"}}`, "", Refused, 0},
		{"OpenAI flex", 429, `{"error":{"message":"Resource unavailable","type":"resource_unavailable","code":"resource_unavailable"}}`, "", RateLimited, 0},
		{"OpenAI overload", 503, `{"error":{"message":"The engine is currently overloaded, please try again later","type":"server_error"}}`, "", Overloaded, 0},
		{"OpenAI reset headers", 429, `{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}`, "x-ratelimit-remaining-requests: 0; x-ratelimit-reset-requests: 8.64s; x-ratelimit-remaining-tokens: 10; x-ratelimit-reset-tokens: 6m0s", RateLimited, 8640 * time.Millisecond},
		{"Gemini RetryInfo", 429, `[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"36s"}]}}]`, "", RateLimited, 36 * time.Second},
		{"Gemini fraction of a second", 429, `{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"45.837906927s"}]}}`, "", RateLimited, 45837906927},
		{"Gemini per day with a delay", 429, `{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProject"}]},{"retryDelay":"36s"}]}}`, "", RateLimited, 36 * time.Second},
		{"Gemini per day", 429, `{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]}}`, "", Quota, 0},
		{"Gemini key", 400, `{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}`, "", Denied, 0},
		{"Gemini, another field", 400, `{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name \"seed\": Cannot find field.","status":"INVALID_ARGUMENT"}}`, "", Invalid, 0},
		{"flagged, and limited", 429, `{"error":{"message":"org is flagged by risk control, try again in 20s"}}`, "", RateLimited, 20 * time.Second},
		{"a picture, not found", 400, `{"error":{"message":"model does not support image input: file not found"}}`, "", Invalid, 0},
		{"Gemini schema", 400, `{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name \"additionalProperties\" at 'generation_config.response_schema': Cannot find field.","status":"INVALID_ARGUMENT"}}`, "", Unsupported, 0},
		{"Gemini overload", 503, `{"error":{"code":503,"message":"The model is overloaded. Please try again later.","status":"UNAVAILABLE"}}`, "", Overloaded, 0},
		{"Azure rate limit", 429, `{"error":{"code":"429","message":"Requests to the ChatCompletions_Create Operation have exceeded the call rate limit. Please retry after 20 seconds."}}`, "", RateLimited, 20 * time.Second},
		{"Azure headers of nonsense", 429, `{"error":{"code":"429","message":"limit"}}`, "retry-after: -1; x-ms-retry-after-ms: 0", RateLimited, 0},
		{"Azure milliseconds", 429, `{"error":{"code":"429"}}`, "x-ms-retry-after-ms: 1500", RateLimited, 1500 * time.Millisecond},
		{"Azure filter", 400, `{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy.","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}`, "", Refused, 0},
		{"Azure deployment", 404, `{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}`, "", NotFound, 0},
		{"OpenRouter upstream's limit", 429, `{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"{\"error\":{\"message\":\"try again in 5s\",\"code\":\"rate_limit_exceeded\"}}","provider_name":"X"}}}`, "", RateLimited, 5 * time.Second},
		{"OpenRouter credits", 402, `{"error":{"message":"Insufficient credits. Add more using https://openrouter.ai/credits","code":402}}`, "", Quota, 0},
		{"OpenRouter moderation", 403, `{"error":{"code":403,"message":"Input was flagged by moderation","metadata":{"reasons":["x"]}}}`, "", Refused, 0},
		{"OpenRouter moderation, other words", 403, `{"error":{"code":403,"message":"Your input did not pass","metadata":{"reasons":["violence"],"flagged_input":"…"}}}`, "", Refused, 0},
		{"a gateway's moderation", 403, `{"error":{"message":"Your input was flagged for \"violence\"","type":"forbidden"}}`, "", Refused, 0},
		{"an account that is flagged", 403, `{"error":{"message":"Your account has been flagged for abuse"}}`, "", Denied, 0},
		{"reasons of a limit", 429, `{"error":{"code":429,"message":"slow down","metadata":{"reasons":["load"]}}}`, "", RateLimited, 0},
		{"a parameter named moderation", 400, `{"error":{"message":"Unknown parameter: 'moderation'"}}`, "", Invalid, 0},
		{"a key without rights", 403, `{"error":{"message":"You are not allowed to sample from this model","type":"invalid_request_error"}}`, "", Denied, 0},
		{"OpenAI, never fits", 429, `{"error":{"message":"Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 10000, Requested 12000. The input or output tokens must be reduced in order to run successfully.","type":"tokens","code":"rate_limit_exceeded"}}`, "", Invalid, 0},
		{"OpenRouter limit of a day", 429, `{"error":{"message":"Rate limit exceeded: free-models-per-day","code":429}}`, "x-ratelimit-reset: 4102444800000", Quota, maxRetryAfter},
		{"LiteLLM provider's budget", 429, `{"error":{"message":"No deployments available - crossed budget: Exceeded budget for provider openai: 0.002 >= 0.0015\n","type":"internal_server_error","param":null,"code":"429"}}`, "", Quota, 0},
		{"LiteLLM, limited behind it", 429, `{"error":{"message":"litellm.RateLimitError: RateLimitError: OpenAIException - slow down","type":"throttling_error","param":null,"code":"429"}}`, "llm_provider-retry-after: 7", RateLimited, 7 * time.Second},
		{"LiteLLM budget", 429, `{"error":{"message":"Budget has been exceeded! Current cost: 10.1, Max budget: 10.0","type":"budget_exceeded","param":null,"code":"429"}}`, "", Quota, 0},
		{"LiteLLM budget, older", 400, `{"error":{"message":"ExceededBudget: User=x over budget. Spend: 0.1, Budget: 0.05","type":"auth_error","code":"400"}}`, "", Quota, 0},
		{"LiteLLM key", 401, `{"error":{"message":"Authentication Error, Invalid proxy server token passed.","type":"auth_error","param":"None","code":"401"}}`, "", Denied, 0},
		{"LiteLLM model", 400, `{"error":{"message":"/chat/completions: Invalid model name passed in model=x. Call /v1/models to view available models","type":"invalid_request_error","code":"400"}}`, "", NotFound, 0},
		{"LiteLLM time-out", 408, `{"error":{"message":"litellm.Timeout: APITimeoutError - Request timed out.","type":null,"code":"408"}}`, "", Overloaded, 0},
		{"Mistral limit", 429, `{"object":"error","message":"Requests rate limit exceeded","type":"rate_limited","param":null,"code":"1300"}`, "", RateLimited, 0},
		{"Mistral capacity", 429, `{"object":"error","message":"Service tier capacity exceeded for this model.","type":"service_tier_capacity_exceeded","code":"3505"}`, "", RateLimited, 0},
		{"Mistral request", 422, `{"detail":[{"type":"extra_forbidden","loc":["body","x"],"msg":"Extra inputs are not permitted"}]}`, "", Invalid, 0},
		{"Groq flex", 498, `{"error":{"message":"capacity exceeded","type":"capacity","code":"capacity_exceeded"}}`, "", Overloaded, 0},
		{"Groq schema", 400, `{"error":{"message":"Generated JSON does not match the expected schema.","type":"invalid_request_error","code":"json_validate_failed"}}`, "", Unusable, 0},
		{"DeepSeek balance", 402, `{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}`, "", Quota, 0},
		{"DeepSeek format", 400, `{"error":{"message":"This response_format type is unavailable now","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}`, "", Unsupported, 0},
		{"DashScope filter", 400, `{"error":{"code":"data_inspection_failed","message":"Input data may contain inappropriate content.","type":"data_inspection_failed"}}`, "", Refused, 0},
		{"DashScope arrears", 400, `{"error":{"code":"Arrearage","message":"Access denied, please make sure your account is in good standing.","type":"Arrearage"}}`, "", Quota, 0},
		{"Anthropic overload", 529, `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, "", Overloaded, 0},
		{"Anthropic credit", 400, `{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}`, "", Quota, 0},
		{"Ollama model", 404, `{"error":{"message":"model \"llava\" not found, try pulling it first","type":"api_error","param":null,"code":null}}`, "", NotFound, 0},
		{"Ollama picture", 400, `{"error":{"message":"invalid image input","type":"invalid_request_error"}}`, "", Invalid, 0},
		{"Ollama, a text", 500, `{"error":"llama runner process has terminated: exit status 2"}`, "", Overloaded, 0},
		{"vLLM schema", 400, `{"object":"error","message":"Failed to convert the grammar from GBNF: json_schema is not supported","type":"BadRequestError","code":400}`, "", Unsupported, 0},
		{"vLLM not multimodal", 400, `{"object":"error","message":"m is not a multimodal model","type":"BadRequestError","param":null,"code":400}`, "", Invalid, 0},
		{"llama.cpp loading", 503, `{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}`, "", Overloaded, 0},
		{"llama.cpp picture", 500, `{"error":{"code":500,"message":"image input is not supported - hint: if this is unexpected, you may need to provide the mmproj","type":"server_error"}}`, "", Invalid, 0},
		{"LM Studio format", 400, `{"error":"'response_format.type' must be 'json_schema' or 'text'"}`, "", Unsupported, 0},
		{"a monthly plan", 429, `{"error":{"message":"monthly limit"}}`, "retry-after: 864000", Quota, maxRetryAfter},
		{"nginx", 502, `<html><h1>502 Bad Gateway</h1></html>`, "", Overloaded, 0},
		{"a proxy's date", 429, ``, "retry-after: " + now.Add(30*time.Second).UTC().Format(http.TimeFormat), RateLimited, 30 * time.Second},
		{"too large", 413, `{"error":{"message":"Request too large"}}`, "", Invalid, 0},
	} {
		h := http.Header{}
		for _, line := range strings.Split(tt.header, "; ") {
			if name, value, ok := strings.Cut(line, ": "); ok {
				h.Set(name, value)
			}
		}
		s := readError([]byte(tt.body))
		wait := waitOf(h, s, now)
		if tt.name == "a proxy's date" && wait > tt.wait-time.Second {
			wait = tt.wait // HTTP dates have whole seconds
		}
		if class := classOf(tt.status, s, wait); class != tt.class || wait != tt.wait {
			t.Errorf("%s: got %s after %v, want %s after %v (read %+v)", tt.name, class, wait, tt.class, tt.wait, s)
		}
		// What passes by itself, and what is the picture's or the model's matter, nobody has to mend.
		mend := tt.class != RateLimited && tt.class != Overloaded && tt.class != Refused && tt.class != Unusable
		for _, o := range []*OpenAI{{name: onlyEndpoint}, {name: "second"}} {
			remedy := o.remedy(&Error{Class: tt.class, StatusCode: tt.status})
			if (remedy != "") != mend {
				t.Errorf("%s: got remedy %q, want one: %t", tt.name, remedy, mend)
			}
			if o.name == "second" && strings.Contains(remedy, "ONCEOVER_") {
				t.Errorf("%s: got remedy %q, which names a variable beside a file of models", tt.name, remedy)
			}
		}
	}
}

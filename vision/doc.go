// Package vision turns a picture into an analysis: it prepares what may leave of the picture, asks a model, and checks
// what the model answers.
//
// Start with Analyzer. OpenAI asks any server that speaks OpenAI's chat completions, and is made by NewOpenAI; Offline,
// made by NewOffline, stands in where no such server is configured: it measures the picture and says that it did no more
// than that. Both look at a Preview, which NewPreview makes of a picture file.
//
// What it promises: nothing of the original file leaves but the pixels of the preview. Every answer of a model is
// checked against the schema, whatever the server claims to have enforced. Each method makes one paid call, and at
// most one more where an answer broke the schema; it never retries on its own. Errors are an *Error, which says whether
// a retry can help, or carry the cause of the caller's context; they never contain the API key or picture data.
//
// What it does not do: fetch pictures, check their size, cache, retry, limit rates or log. What is asked, and of what
// form the answer is, comes from package prompt.
package vision

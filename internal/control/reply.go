package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"onceover/celery"
)

// Bounds of what workers may say.
const (
	maxReply   = 1 << 20  // bytes of a reply
	maxReplies = 32 << 20 // bytes of all replies to a question
	maxNodes   = 1000     // that answer a question
	maxName    = 255      // bytes of the name of a node or a queue, as AMQP has it
)

// parseReply reads a reply: a JSON object with the answer of a node by its name (kombu/pidbox.py, Node.reply). A reply that is too long
// becomes a refusal of its node.
func parseReply(contentType string, body []byte) (map[string]json.RawMessage, error) {
	if base, _, _ := strings.Cut(contentType, ";"); strings.TrimSpace(base) != celery.ContentTypeJSON {
		return nil, fmt.Errorf("content type %q: expected %s", contentType, celery.ContentTypeJSON)
	}
	if len(body) > maxReply {
		node, err := firstName(body[:4<<10])
		if err != nil {
			return nil, err
		}
		return map[string]json.RawMessage{node: tooMuch(fmt.Sprintf("the reply has %d bytes: expected at most %d", len(body), maxReply))}, nil
	}
	var answers map[string]json.RawMessage
	if err := json.Unmarshal(body, &answers); err != nil {
		return nil, fmt.Errorf("not a reply of remote control: %w", err)
	}
	for node := range answers {
		if !isName(node) {
			delete(answers, node)
		}
	}
	if len(answers) == 0 {
		return nil, errors.New("not a reply of remote control: it names no node")
	}
	return answers, nil
}

func isName(node string) bool { return node != "" && len(node) <= maxName }

// firstName is the first name of an object of which only the beginning is there.
func firstName(beginning []byte) (string, error) {
	dec := json.NewDecoder(bytes.NewReader(beginning))
	open, err := dec.Token()
	if err != nil || open != json.Delim('{') {
		return "", errors.New("not a reply of remote control: it is no object")
	}
	name, err := dec.Token()
	if node, ok := name.(string); err == nil && ok && isName(node) {
		return node, nil
	}
	return "", errors.New("not a reply of remote control: it names no node")
}

// tooMuch is the answer in place of one that is too long.
func tooMuch(why string) json.RawMessage {
	doc, err := json.Marshal(map[string]string{"error": why})
	if err != nil {
		return json.RawMessage(`{"error":"too long"}`) // it is a text: it can be encoded
	}
	return doc
}

// maxText is how many bytes of a text are kept that a worker has made up.
const maxText = 2 << 10

// Refusal is why a node refused a command: the text of {"error": …}, which is Python's repr of an exception or a sentence. It is "" for
// any other answer.
func Refusal(answer json.RawMessage) string {
	var refused struct{ Error json.RawMessage }
	if json.Unmarshal(answer, &refused) != nil || len(refused.Error) == 0 {
		return ""
	}
	if text := textOf(refused.Error); text != "" {
		return text
	}
	return shorten(string(refused.Error))
}

// textOf is a JSON string, shortened; "" for anything else.
func textOf(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return ""
	}
	return shorten(text)
}

// shorten cuts a text that is too long.
func shorten(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

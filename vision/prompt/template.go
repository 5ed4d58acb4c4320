package prompt

import (
	"regexp"
	"slices"
	"strings"
)

// Role is who speaks in a message, as in OpenAI's chat completions.
type Role string

// Roles of the messages that a prompt may have. dotprompt calls the last one model.
const (
	System    Role = "system"
	User      Role = "user"
	Assistant Role = "assistant"
)

// Part is a piece of a message: a text, or the place of the picture.
type Part struct {
	Text    string
	Picture bool
}

// Message is what one role says.
type Message struct {
	Role  Role
	Parts []Part
}

// Text returns the text of a message without a picture; ok is false if there is a picture in it.
func (m Message) Text() (text string, ok bool) {
	for _, p := range m.Parts {
		if p.Picture {
			return "", false
		}
		text += p.Text
	}
	return text, true
}

// node is a piece of a template: text as it is, a variable, the beginning of a message, or the picture.
type node struct {
	text     string
	variable string
	asJSON   bool
	role     Role
	picture  bool
}

var (
	tag      = regexp.MustCompile(`(?s)\{\{!--.*?--\}\}|\{\{![^}]*\}\}|\{\{\{[^{}]*\}\}\}|\{\{[^{}]*\}\}`)
	comment  = regexp.MustCompile(`(?s)^\{\{!.*\}\}$`)
	roleTag  = regexp.MustCompile(`^role\s+["']([^"']*)["']$`)
	mediaTag = regexp.MustCompile(`^media\s+url=([A-Za-z_][A-Za-z0-9_]*)$`)
	jsonTag  = regexp.MustCompile(`^json\s+([A-Za-z_][A-Za-z0-9_]*)$`)
	nameTag  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// roles of dotprompt, by name.
var roles = map[string]Role{"system": System, "user": User, "model": Assistant}

// pictureVariable is what {{media url=picture}} names.
const pictureVariable = "picture"

// parseTemplate reads a body, whose first line is line from of its file. variables are those that have a value.
func parseTemplate(body string, from int, variables []string, f *faults) []node {
	var out []node
	line := func(at int) int { return from + strings.Count(body[:at], "\n") }
	known := func(name string, at int) {
		if !slices.Contains(variables, name) {
			f.add(line(at), "there is no variable %s: expected one of %s", name, strings.Join(variables, ", "))
		}
	}
	at := 0
	for _, m := range tag.FindAllStringIndex(body, -1) {
		if m[0] > at {
			out = append(out, node{text: body[at:m[0]]})
		}
		at = m[1]
		whole := body[m[0]:m[1]]
		inner := strings.TrimSpace(strings.Trim(whole, "{}~"))
		switch {
		case comment.MatchString(whole):
		case roleTag.MatchString(inner):
			name := roleTag.FindStringSubmatch(inner)[1]
			role, ok := roles[name]
			if !ok {
				f.add(line(m[0]), "there is no role %q: expected system, user or model", name)
			}
			out = append(out, node{role: role})
		case mediaTag.MatchString(inner):
			if name := mediaTag.FindStringSubmatch(inner)[1]; name != pictureVariable || !slices.Contains(variables, name) {
				f.add(line(m[0]), "media has no %s: expected {{media url=picture}}, in an analysis", name)
			}
			out = append(out, node{picture: true})
		case jsonTag.MatchString(inner):
			name := jsonTag.FindStringSubmatch(inner)[1]
			known(name, m[0])
			out = append(out, node{variable: name, asJSON: true})
		case nameTag.MatchString(inner) && inner != pictureVariable:
			known(inner, m[0])
			out = append(out, node{variable: inner})
		default:
			f.add(line(m[0]), "%s is not supported: expected {{variable}}, {{json variable}}, {{role \"system\"}}, {{media url=picture}} or a comment {{! }}", shorten(whole))
		}
	}
	out = append(out, node{text: body[at:]})
	for i := range out {
		if strings.Contains(out[i].text, "{{") {
			f.add(from, "a tag is not closed: expected }} after {{")
			break
		}
	}
	return out
}

func shorten(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:39]) + "…"
	}
	return s
}

// value is that of a variable: as text, and as JSON.
type value struct {
	text, json string
}

// render puts a template's messages together. What comes before the first role is the user's, as in dotprompt.
// White space around a message is not sent.
func render(nodes []node, values map[string]value) []Message {
	var out []Message
	current := Message{Role: User}
	flush := func() {
		if parts := trimmed(current.Parts); len(parts) > 0 {
			out = append(out, Message{current.Role, parts})
		}
	}
	write := func(s string) {
		if n := len(current.Parts); n > 0 && !current.Parts[n-1].Picture {
			current.Parts[n-1].Text += s
			return
		}
		current.Parts = append(current.Parts, Part{Text: s})
	}
	for _, n := range nodes {
		switch {
		case n.role != "":
			flush()
			current = Message{Role: n.role}
		case n.picture:
			current.Parts = append(current.Parts, Part{Picture: true})
		case n.variable != "" && n.asJSON:
			write(values[n.variable].json)
		case n.variable != "":
			write(values[n.variable].text)
		default:
			write(n.text)
		}
	}
	flush()
	return out
}

// trimmed takes white space off the texts next to the ends and to a picture; a text of nothing else is left out.
func trimmed(parts []Part) []Part {
	var out []Part
	for _, p := range parts {
		if p.Text = strings.TrimSpace(p.Text); p.Picture || p.Text != "" {
			out = append(out, p)
		}
	}
	return out
}

// checkTemplate looks at what is sent as a whole.
func checkTemplate(nodes []node, task string, line int, f *faults) {
	pictures, user := 0, false
	role := User
	for _, n := range nodes {
		if n.role != "" {
			role = n.role
		}
		if n.picture {
			pictures++
			if role != User {
				f.add(line, "the picture is in a message of role %s: expected the user's", role)
			}
		}
		if role == User && (n.variable != "" || n.picture || strings.TrimSpace(n.text) != "") {
			user = true
		}
	}
	switch {
	case !user:
		f.add(line, "there is no message of the user's: expected {{role \"user\"}} and a text after it")
	case task == Analysis && pictures != 1:
		f.add(line, "the picture is there %d times: expected {{media url=picture}} once", pictures)
	}
	if task == Feedback && !slices.ContainsFunc(nodes, func(n node) bool { return n.variable == "question" }) {
		f.add(line, "the question is not asked: expected {{json question}}")
	}
}

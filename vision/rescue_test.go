package vision

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"onceover/vision/prompt"
)

const (
	goodReply    = `{"waste_type":"PET 플라스틱","category":"투명페트병","recyclable":true,"confidence":0.93,"feedback":"투명 페트병입니다. 라벨을 떼고 헹궈서 배출하세요."}`
	goodAnalysis = goodReply // as it is answered
	otherReply   = `{"waste_type":"종이 상자","category":"종이","recyclable":true,"confidence":0.5,"feedback":"상자입니다."}`
)

func defaultPrompts(t testing.TB) *prompt.Folder {
	t.Helper()
	f, err := prompt.Load(prompt.Default())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestRescue reads answers of the shapes that servers and models were reported to send. want is the answer; "" where
// nobody could say what it is.
func TestRescue(t *testing.T) {
	t.Parallel()
	s := defaultPrompts(t).Find(prompt.Analysis, "ko").Schema
	swap := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(goodReply) }
	content := func(text string) string { raw, _ := json.Marshal(text); return `{"content":` + string(raw) + `}` }
	python := strings.NewReplacer(`"`, `'`, "true", "True").Replace(goodReply)
	pretty := strings.NewReplacer(`{`, "{\n  ", `,"`, ",\n  \"", `}`, "\n}").Replace(goodReply)
	lines := "waste_type: PET 플라스틱\ncategory: 투명페트병\nrecyclable: true\nconfidence: 0.93\nfeedback: 투명 페트병입니다. 라벨을 떼고 헹궈서 배출하세요."
	rescued, total := 0, 0
	for _, tt := range []struct{ name, message, want string }{
		{"as asked", content(goodReply), goodReply},
		{"white space", content("\n\n " + goodReply + "\n\t"), goodReply},
		{"pretty", content(pretty), goodReply},
		{"fence", content("```json\n" + goodReply + "\n```"), goodReply},
		{"fence without a language", content("```\n" + goodReply + "```"), goodReply},
		{"fence that does not end", content("```json\n" + goodReply), goodReply},
		{"words before", content("Here is the analysis you asked for:\n\n" + goodReply), goodReply},
		{"a courtesy in Korean", content(goodReply + "\n더 필요한 것이 있으면 말씀해 주세요."), goodReply},
		{"what was uploaded, in Korean", content("업로드하신 이미지를 분석한 결과입니다:\n" + goodReply), goodReply},
		{"what was attached, in Korean", content("첨부해 주신 사진을 분석한 결과입니다. " + goodReply + "\n이상입니다."), goodReply},
		{"a picture was provided, in Korean", content("이미지가 제공되었습니다. 분석 결과: " + goodReply), goodReply},
		{"no label, in Korean", content("라벨은 확인할 수 없지만 투명 페트병입니다. " + goodReply), goodReply},
		{"an empty bottle", content("The picture is of an empty PET bottle.\n" + goodReply), goodReply},
		{"no label", content("I can't see a label, but it is a PET bottle: " + goodReply), goodReply},
		{"analysis of the image", content("I'll provide analysis of the image: " + goodReply), goodReply},
		{"an end of text", content(goodReply + "</s>"), goodReply},
		{"an end of turn", content(goodReply + "<|im_end|>\n"), goodReply},
		{"a brace too many", content("```json\n" + goodReply + "}\n```"), goodReply},
		{"a rule", content(goodReply + "\n\n---\n"), goodReply},
		{"advice", content(goodReply + "\nNote: rinse it first."), goodReply},
		{"words around", content("Sure!\n" + goodReply + "\nLet me know if you need more."), goodReply},
		{"byte order mark", content("\ufeff" + goodReply), goodReply},
		{"thinking", content("<think>\nIt looks like {a bottle}, maybe \"glass\".\n</think>\n" + goodReply), goodReply},
		{"thinking that began in the prompt", content("It may be glass.\n</think>\n\n" + goodReply), goodReply},
		{"thinking with a draft", content("<think>" + otherReply + "</think>" + goodReply), goodReply},
		{"thinking and a fence", content("<thinking>hm</thinking>\n```json\n" + goodReply + "\n```\n"), goodReply},
		{"a draft, then the answer", content("Draft: " + otherReply + "\nFinal answer:\n" + goodReply), goodReply},
		{"twice the same", content(goodReply + "\n" + goodReply), goodReply},
		{"list of one", content("[" + goodReply + "]"), goodReply},
		{"wrapped", content(`{"analysis": ` + goodReply + `}`), goodReply},
		{"wrapped twice", content(`{"result": {"data": ` + goodReply + `}}`), goodReply},
		{"as a function's arguments", content(`{"arguments": ` + goodReply + `}`), goodReply},
		{"encoded twice", content(string(mustMarshal(goodReply))), goodReply},
		{"parts", `{"content":[{"type":"text","text":` + string(mustMarshal(goodReply)) + `}]}`, goodReply},
		{"parts with thinking (Mistral)", `{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm {"}]},{"type":"text","text":` + string(mustMarshal(goodReply)) + `}]}`, goodReply},
		{"output_text parts", `{"content":[{"type":"output_text","text":` + string(mustMarshal(goodReply[:40])) + `},{"type":"output_text","text":` + string(mustMarshal(goodReply[40:])) + `}]}`, goodReply},
		{"an object", `{"content":` + goodReply + `}`, goodReply},
		{"in reasoning (Ollama)", `{"content":"","reasoning":` + string(mustMarshal(goodReply)) + `}`, goodReply},
		{"in reasoning_content (vLLM)", `{"content":null,"reasoning_content":` + string(mustMarshal("I see. "+goodReply)) + `}`, goodReply},
		{"in thinking", `{"content":"","thinking":` + string(mustMarshal(goodReply)) + `}`, goodReply},
		{"in a tool call (LiteLLM)", `{"content":null,"tool_calls":[{"type":"function","function":{"name":"json_tool_call","arguments":` + string(mustMarshal(goodReply)) + `}}]}`, goodReply},
		{"Python", content(python), goodReply},
		{"trailing comma", content(swap(`."}`, `.",}`)), goodReply},
		{"comments", content(swap(`{`, "{ // the answer\n")), goodReply},
		{"names without quotes", content(swap(`"waste_type"`, "waste_type", `"category"`, "category")), goodReply},
		{"typographic quotes", content(swap(`{"waste_type"`, `{“waste_type”`)), goodReply},
		{"a line end in a text", content(swap("페트병입니다. ", "페트병입니다.\n")), swap("페트병입니다. ", `페트병입니다.\n`)},
		{"missing comma", content(swap(`"투명페트병",`, "\"투명페트병\"\n")), goodReply},
		{"numbers and truth as texts", content(swap("0.93", `"0.93"`, "true", `"true"`)), goodReply},
		{"percent", content(swap("0.93", `"93%"`)), goodReply},
		{"names in another case", content(swap("waste_type", "wasteType", "category", "Category")), goodReply},
		{"space in a listed value", content(swap("투명페트병", "투명 페트병 ")), goodReply},
		{"a synonym", content(swap("투명페트병", "투명 PET병")), goodReply},
		{"a field too many", content(swap(`{`, `{"id":1,`)), goodReply},
		{"thinking in a field", content(swap(`{`, `{"reasoning":"because",`)), goodReply},
		{"lines", content(lines), goodReply},
		{"Markdown list", content("- **" + strings.NewReplacer(": ", "**: ", "\n", "\n- **").Replace(lines)), goodReply},
		{"off the list", content(swap("투명페트병", "다른 것")), swap("투명페트병", "다른 것")},

		{"nothing", content(""), ""},
		{"null", `{"content":null}`, ""},
		{"white space to the end (vLLM)", content("{" + strings.Repeat(" \n", 500)), ""},
		{"prose", content("I see a bottle made of plastic. Rinse it."), ""},
		{"cut off", content(goodReply[:len(goodReply)-20]), ""},
		{"cut off in a fence", content("```json\n" + goodReply[:60]), ""},
		{"confidence in words", content(swap("0.93", `"high"`)), ""},
		{"confidence of 93", content(swap("0.93", "93")), ""},
		{"a field missing", content(swap(`"recyclable":true,`, "")), ""},
		{"the schema itself", content(string(s.Sent())), ""},
		{"two answers", content(goodReply + " or " + otherReply + " or so"), ""},
		{"an example and a refusal", content("For instance " + otherReply + " and " + goodReply + ". But I cannot tell."), ""},
		{"an error", content(`{"error":"no image"}`), ""},
		{"thinking that does not end", content("<think>maybe " + otherReply + " no, look again: it is gla"), ""},
		{"thinking and nothing after", content("<think>" + otherReply + "</think>"), ""},
		{"a refusal beside a draft", `{"content":"I cannot tell.","reasoning":` + string(mustMarshal(otherReply)) + `}`, ""},
		{"cut off beside a draft", `{"content":` + string(mustMarshal(goodReply[:50])) + `,"reasoning":` + string(mustMarshal(otherReply)) + `}`, ""},
		{"a draft, then one that is broken", content("Draft: " + otherReply + "\nFinal: " + swap("0.93", "1.4")), ""},
		{"a draft, then one that is cut off", content("Draft: " + otherReply + "\nFinal: " + goodReply[:60]), ""},
		{"a draft, then a change", content(otherReply + "\nCorrection: {\"category\": \"캔\"}"), ""},
		{"taken back", content(otherReply + " But wait, that is wrong."), ""},
		{"taken back in Korean", content(otherReply + " 아니, 다시 보니 캔입니다."), ""},
		{"a refusal and the form", content("I cannot see any image. Here is the format you asked for:\n" + otherReply), ""},
		{"no picture, and an example", content("No image was provided, so here is an example of the output: " + otherReply), ""},
		{"no picture, in Korean", content("이미지가 제공되지 않았습니다. 형식은 다음과 같습니다: " + otherReply), ""},
		{"an example in Korean", content("예시: " + otherReply), ""},
		{"a second thought", content(otherReply + "\nOn second thought, it is glass."), ""},
		{"another word", content(otherReply + " It should be glass."), ""},
		{"advice that doubts", content(otherReply + " Note: it could be glass."), ""},
		{"corrected in Korean", content(otherReply + " 정정: 캔입니다."), ""},
		{"under a telling name", content(`{"wrong_answer": ` + otherReply + `}`), ""},
		{"a quote in a text", content(swap("투명 페트병입니다.", `It says "PET", rinse: then bin.`)), ""},
		{"a value missing", content(strings.NewReplacer(`"`, `'`, "true", "True", "0.93", "").Replace(goodReply)), ""},
		{"a name twice", content(swap(`"recyclable"`, `"category":"캔","recyclable"`)), ""},
		{"a skeleton", content(`{"waste_type":"string","category":"string","recyclable":true,"confidence":0.5,"feedback":"string"}`), ""},
		{"a number too large", content(swap("0.93", "1e2000000")), ""},
	} {
		var m chatAnswer
		if err := json.Unmarshal([]byte(tt.message), &m); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got, _, err := rescue(s, m, false)
		total++
		switch {
		case tt.want == "" && err == nil:
			t.Errorf("%s: got %s, want an error", tt.name, got.Fields)
		case tt.want != "" && string(got.Fields) != tt.want:
			t.Errorf("%s: got %s, %v\nwant %s", tt.name, got.Fields, err, tt.want)
		case tt.want != "":
			rescued++
		}
	}
	t.Logf("%d of %d are answers", rescued, total)
}

// TestCutOffLines does not take lines that were cut off at the limit of tokens.
func TestCutOffLines(t *testing.T) {
	t.Parallel()
	folder, err := prompt.Load(fstest.MapFS{"analysis.prompt": {Data: []byte(
		"---\noutput: {schema: {type: object, properties: {total: {type: number}, merchant: {type: string}}, required: [total]}}\n---\n{{media url=picture}}")}})
	if err != nil {
		t.Fatal(err)
	}
	s := folder.Find(prompt.Analysis, "").Schema
	for _, tt := range []struct {
		text   string
		cutOff bool
		want   string
	}{
		{"merchant: 0711\ntotal: 1234.50", false, `{"total":1234.50,"merchant":"0711"}`},
		{"merchant: Bin #3\ntotal: 12", false, `{"total":12,"merchant":"Bin #3"}`},
		{"merchant: A\ntotal: 12", true, ""},
		{"merchant: A\ntotal: 010", false, ""},
		{`{"total": 12, "merchant": "A"}`, true, `{"total":12,"merchant":"A"}`},
		{"I am sorry, I cannot see the picture.", false, ""},
	} {
		got, _, err := rescue(s, chatAnswer{Content: flatText(tt.text)}, tt.cutOff)
		if string(got.Fields) != tt.want {
			t.Errorf("%q: got %s, %v, want %s", tt.text, got.Fields, err, tt.want)
		}
	}
}

func mustMarshal(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

func FuzzRescue(f *testing.F) {
	folder := defaultPrompts(f)
	s := folder.Find(prompt.Analysis, "ko").Schema
	f.Add(goodReply)
	f.Add("```json\n" + goodReply + "\n```")
	f.Add(strings.ReplaceAll(goodReply, `"`, `'`))
	f.Add("<think>{</think>waste_type: a\ncategory: b")
	f.Add(fmt.Sprintf("[%s, {'a': %s}]", goodReply, goodReply))
	f.Fuzz(func(t *testing.T, text string) {
		got, _, err := rescue(s, chatAnswer{Content: flatText(text)}, false)
		if err != nil {
			return
		}
		if again, err := s.Fit(got.Fields); err != nil || string(again.Fields) != string(got.Fields) {
			t.Errorf("got %s, which is no answer: %v", got.Fields, err)
		}
	})
}

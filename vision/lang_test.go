package vision

import (
	"strings"
	"testing"
)

func TestCheckLang(t *testing.T) {
	t.Parallel()
	for _, tag := range []string{
		"ko", "en", "KO", "kok", "ko-KR", "ko-kr", "pt-BR", "es-419", "zh-Hant", "zh-Hant-TW", "zh-yue", "zh-yue-Hant-HK",
		"sl-rozaj", "de-CH-1996", "sl-rozaj-biske", "zh-cmn-Hans-CN-pinyin12-abcdefgh",
	} {
		if err := CheckLang(tag); err != nil {
			t.Errorf("%s: got %v, want it taken", tag, err)
		}
	}
	for _, tag := range []string{
		"", "k", "abcd", "abcd-x", "english", "english please", "en please", "ko_KR", "ko-", "-ko", "ko--KR", "ko-K", "ko-KRX-", "ko\n", "한국어",
		"en-x-ignore-all", "en-u-co-phonebk", "en-GB-ignore-previous-rules", "../x", strings.Repeat("ko-", 100) + "ko",
	} {
		err := CheckLang(tag)
		if err == nil {
			t.Errorf("%q: got no error", tag)
		} else if !strings.Contains(err.Error(), "pt-BR") || len(err.Error()) > 300 {
			t.Errorf("%q: got %q, want a short error that says what was expected", tag, err)
		}
	}
}

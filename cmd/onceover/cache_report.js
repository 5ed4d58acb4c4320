'use strict';
// Lets people judge the pairs of the page. Names of files come from data attributes and go into JSON only.
(() => {
  const pairs = [...document.querySelectorAll('article.pair')];
  if (!pairs.length) return;
  const words = { same: 'the same', differ: 'differ', unsure: 'unsure' };
  const same = new Map(); // pairs of the same two files, by key: they are judged as one
  const keyOf = new Map();
  for (const p of pairs) {
    const key = [p.dataset.firstSha256, p.dataset.secondSha256].sort().join('-');
    keyOf.set(p, key);
    same.set(key, [...(same.get(key) || []), p]);
  }

  // What was said of each key: {says, at}. The browser keeps it by the files, so that another page with the pair has it too.
  const answers = new Map();
  let kept = true; // whether the browser keeps it
  const stored = (key, ...value) => {
    const name = 'onceover-judgement-' + key;
    try {
      if (!value.length) return localStorage.getItem(name);
      if (value[0]) localStorage.setItem(name, JSON.stringify(value[0]));
      else localStorage.removeItem(name);
    } catch {
      kept = false;
    }
    return null;
  };
  for (const key of same.keys()) {
    try {
      const { says, at } = JSON.parse(stored(key)) || {};
      if (Object.hasOwn(words, says)) answers.set(key, { says, at: new Date(at).toISOString() });
    } catch { /* it is not of this page */ }
  }

  const made = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);
  const bar = made('bar');
  const [count, undo, save, details, copy] = ['.count', '[data-do=undo]', '[data-do=save]', 'details', 'textarea'].map((s) => bar.querySelector(s));
  document.body.prepend(bar);
  for (const p of pairs) {
    p.tabIndex = -1;
    p.append(made('choices'));
  }

  const history = []; // {pair, before}
  let last = null; // the pair that had the focus
  let unsaved = false;

  const lines = () => {
    let out = '';
    for (const [key, [p]] of same) {
      const a = answers.get(key);
      if (!a || a.says === 'unsure') continue;
      const d = p.dataset;
      out += JSON.stringify({ first: d.first, second: d.second, first_sha256: d.firstSha256, second_sha256: d.secondSha256,
        verdict: d.verdict, same: a.says === 'same', at: a.at }) + '\n';
    }
    return out;
  };

  const show = (p) => {
    const says = answers.get(keyOf.get(p))?.says;
    p.classList.toggle('judged', !!says);
    for (const b of p.querySelectorAll('[data-says]')) b.setAttribute('aria-pressed', b.dataset.says === says);
  };
  const fill = () => { if (details.open) copy.value = lines(); };
  const sum = (note = '') => {
    const said = [...answers.values()];
    const parts = Object.entries(words).map(([says, word]) => `${said.filter((a) => a.says === says).length} ${word}`);
    const where = kept ? '' : ' This browser does not keep the judgements: save them before you close the page.';
    count.textContent = `${said.length} of ${same.size} judged: ${parts.join(', ')}.${note && ' ' + note}${where}`;
    undo.disabled = !history.length;
    save.disabled = !lines();
    fill();
  };

  const go = (p) => {
    if (!p) return;
    p.focus({ preventScroll: true });
    p.scrollIntoView({ block: 'center' });
  };
  const open = (p) => !answers.has(keyOf.get(p));
  const nextOpen = (p) => pairs.slice(pairs.indexOf(p) + 1).find(open) || pairs.find(open);
  const put = (p, answer) => {
    const key = keyOf.get(p);
    if (answer) answers.set(key, answer);
    else answers.delete(key);
    stored(key, answer);
    same.get(key).forEach(show);
    unsaved = true;
  };
  const judge = (p, says) => {
    history.push({ p, before: answers.get(keyOf.get(p)) });
    put(p, { says, at: new Date().toISOString() });
    const next = nextOpen(p);
    sum(next ? '' : 'That was the last one: save them now.');
    if (next) go(next);
    else save.disabled ? go(p) : save.focus();
  };
  const takeBack = () => {
    const h = history.pop();
    if (!h) return;
    put(h.p, h.before);
    sum();
    go(h.p);
  };
  const write = () => {
    try {
      const link = document.createElement('a');
      link.href = URL.createObjectURL(new Blob([lines()], { type: 'application/octet-stream' }));
      link.download = 'onceover-judgements.jsonl';
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
      unsaved = false;
      sum('Saved as ' + link.download + '.');
    } catch {
      details.open = true;
      sum('The browser does not save files: copy the lines into one.');
      copy.focus();
      copy.select();
    }
  };

  document.addEventListener('focusin', (e) => { last = e.target.closest('article.pair') || last; });
  document.addEventListener('click', (e) => {
    const button = e.target.closest('button');
    if (!button) return;
    if (button.dataset.says) judge(button.closest('article.pair'), button.dataset.says);
    else if (button.dataset.do === 'go') go(nextOpen(last) || pairs[0]);
    else if (button.dataset.do === 'undo') takeBack();
    else if (button.dataset.do === 'save') write();
  });
  details.addEventListener('toggle', fill);
  document.addEventListener('keydown', (e) => {
    if (e.ctrlKey || e.altKey || e.metaKey || e.target.closest?.('textarea')) return;
    // The letter of the key where the keyboard has other letters.
    const key = /^Key[A-Z]$/.test(e.code) && !/^[a-z]$/i.test(e.key) ? e.code[3].toLowerCase() : e.key.toLowerCase();
    const says = { s: 'same', d: 'differ', u: 'unsure' }[key];
    const step = { arrowleft: -1, arrowright: 1 }[key];
    if (!says && !step && key !== 'z') return;
    e.preventDefault();
    if (e.repeat && !step) return;
    const p = document.activeElement?.closest('article.pair');
    if (key === 'z') takeBack();
    else if (!p) go(last || nextOpen(null) || pairs[0]); // a pair is seen before it is judged
    else if (says) judge(p, says);
    else go(pairs[pairs.indexOf(p) + step]);
  });
  addEventListener('beforeunload', (e) => { if (unsaved && !kept) e.preventDefault(); });

  pairs.forEach(show);
  sum();
})();

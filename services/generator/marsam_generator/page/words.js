// What the page says, in both of its languages.
const WORDS = {
  en: {
    other: "العربية", draw: "Draw", hint: "A baker in a laboratory, in the evening", cancel: "Stop", prompt: "What to draw", model: "Model", adapters: "Adapters",
    noAdapters: "None of this model yet. “marsam train” makes one.", compare: "Beside the base, at the same seed",
    seed: "Seed", lock: "Keep it", dice: "Another seed", count: "Pictures", more: "More", negative: "What to keep out",
    steps: "Steps", guidance: "Guidance", size: "Size", scheduler: "Scheduler", pictures: "Pictures", copy: "Copy",
    copied: "Copied", history: "Drawn before", noHistory: "Nothing was drawn yet.", older: "Older ones",
    token: "Token", tokenTitle: "This generator asks for a token", tokenKeep: "Go on",
    tokenWhy: "Its operator makes one with “marsam tokens new”. It is kept in this tab until you close it.",
    emptyTitle: "Describe a picture", emptyText: "The base draws it on one side, your adapters on the other, at the same seed: what differs is what they learned.",
    base: "Base", tuned: "Adapted", waiting: "Waiting", place: "{n} before it", about: "about {s} s", step: "Step {a} of {b}",
    decoding: "Almost there", done: "{s} s", stopped: "Stopped", failed: "Not drawn", loading: "Asking the generator…", drawing: "Drawing…",
    download: "Save picture {i}", weight: "Weight of {name}", picture: "{what}, seed {seed}: {prompt}",
    noModels: "There is no base here yet: “marsam models import FOLDER NAME” brings one.",
    gone: "The generator does not answer", goneWhat: "See that it runs, then try again.", busy: "The generator is busy",
    wrong: "This cannot be drawn", again: "Come again in {s} s.", openOne: "Show again: {prompt}",
    finished: "The pictures are there.",
  },
  ar: {
    other: "English", draw: "ارسم", hint: "خبّازة في مختبر عند المساء", cancel: "أوقف", prompt: "ماذا نرسم؟", model: "النموذج", adapters: "المُكيِّفات",
    noAdapters: "لا مُكيِّف لهذا النموذج بعد. الأمر marsam train يصنع واحدًا.", compare: "إلى جانب الأساس، بالبذرة نفسها",
    seed: "البذرة", lock: "ثبّتها", dice: "بذرة أخرى", count: "عدد الصور", more: "المزيد", negative: "ما لا نريده في الصورة",
    steps: "الخطوات", guidance: "التوجيه", size: "القياس", scheduler: "المُجدوِل", pictures: "الصور", copy: "انسخ",
    copied: "نُسخ", history: "رُسم من قبل", noHistory: "لم يُرسم شيء بعد.", older: "أقدم من ذلك",
    token: "الرمز", tokenTitle: "هذا المولِّد يطلب رمزًا", tokenKeep: "تابع",
    tokenWhy: "يصنعه المشغّل بالأمر marsam tokens new، ويبقى في هذا التبويب حتى تغلقه.",
    emptyTitle: "صِف صورة", emptyText: "يرسمها الأساس في جانب، ومُكيِّفاتك في الجانب الآخر، بالبذرة نفسها: فما اختلف هو ما تعلّمته.",
    base: "الأساس", tuned: "مع المُكيِّفات", waiting: "في الانتظار", place: "قبلها {n}", about: "نحو {s} ث", step: "الخطوة {a} من {b}",
    decoding: "أوشكت", done: "{s} ث", stopped: "أُوقفت", failed: "لم تُرسم", loading: "نسأل المولِّد…", drawing: "يرسم…",
    download: "احفظ الصورة {i}", weight: "وزن {name}", picture: "{what}، البذرة {seed}: {prompt}",
    noModels: "لا نموذج أساس هنا بعد: الأمر marsam models import يأتي بواحد.",
    gone: "المولِّد لا يجيب", goneWhat: "تأكّد من أنه يعمل ثم حاول من جديد.", busy: "المولِّد مشغول",
    wrong: "لا يمكن رسم هذا", again: "عُد بعد {s} ث.", openOne: "اعرض من جديد: {prompt}",
    finished: "الصور جاهزة.",
  },
};

const KEPT = "marsam.language";
let language = localStorage.getItem(KEPT) ?? (navigator.language.startsWith("ar") ? "ar" : "en");

/** The text called `key`, with its gaps filled. */
export function say(key, gaps = {}) {
  return WORDS[language][key].replace(/\{(\w+)\}/g, (_, name) => gaps[name] ?? "");
}

/** Write the page's fixed texts, in its direction. */
export function dress() {
  document.documentElement.lang = language;
  document.documentElement.dir = language === "ar" ? "rtl" : "ltr";
  for (const element of document.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
  for (const element of document.querySelectorAll("[data-title]")) {
    element.title = say(element.dataset.title);
    element.setAttribute("aria-label", element.title);
  }
  document.getElementById("prompt").placeholder = say("hint");
  const other = document.getElementById("language");
  other.textContent = say("other");
  other.lang = language === "ar" ? "en" : "ar";
}

/** Take the other language from now on. */
export function turn() {
  language = language === "ar" ? "en" : "ar";
  localStorage.setItem(KEPT, language);
  dress();
}

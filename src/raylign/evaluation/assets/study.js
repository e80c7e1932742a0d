"use strict";
document.querySelectorAll(".copy").forEach(button => button.addEventListener("click", async () => {
  const code = button.parentElement.querySelector("code");
  try { await navigator.clipboard.writeText(code.textContent); }
  catch {  // a page opened from a file may not use the clipboard: select the text and ask the old way
    const range = document.createRange(); range.selectNodeContents(code);
    const selection = getSelection(); selection.removeAllRanges(); selection.addRange(range);
    document.execCommand("copy");
  }
  button.textContent = "Copied"; setTimeout(() => { button.textContent = "Copy"; }, 1500);
}));

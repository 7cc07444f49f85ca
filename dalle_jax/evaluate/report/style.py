"""The style sheet of the report's page: calm on a desktop, one column on a phone, and plain in print."""

STYLE = """
:root{--ink:#1f2a33;--soft:#5b6873;--line:#e3e1da;--paper:#faf9f6;--card:#fff;--accent:#0b6e99;
--right:#17693f;--right-bg:#e5f3ea;--wrong:#a32a20;--wrong-bg:#fbe9e6}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums}
main,header,footer{max-width:1080px;margin:0 auto;padding:0 20px}
header{padding-top:44px}
h1{font-size:clamp(1.7rem,4.5vw,2.5rem);line-height:1.15;margin:0 0 .35em;letter-spacing:-.02em}
h2{font-size:1.4rem;margin:0 0 .4em;letter-spacing:-.01em}
h3{font-size:1.05rem;margin:1.7em 0 .6em}
p{margin:0 0 1em;max-width:72ch}
a{color:var(--accent)}
.lead{font-size:1.12rem;color:var(--soft)}
nav{display:flex;flex-wrap:wrap;gap:6px 18px;font-size:.92rem;padding:10px 0 2px}
nav a{text-decoration:none}nav a:hover{text-decoration:underline}
section{padding:30px 0 8px;border-top:1px solid var(--line);margin-top:26px}
small,.label,.tick{color:var(--soft)}
.label{display:block;font-size:.84rem;line-height:1.35}
.cards{display:grid;grid-template-columns:repeat(4,1fr);gap:12px;margin:22px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px}
.card strong{display:block;font-size:1.5rem;white-space:nowrap;line-height:1.3;letter-spacing:-.02em;
color:var(--accent)}
.card small{display:block;font-size:.8rem;line-height:1.35}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:14px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:12px;padding:12px 14px}
figcaption{font-size:.92rem;font-weight:600}
figcaption small{font-weight:400}
.chart{display:block;width:100%;height:auto;margin-top:4px}
.chart .grid{stroke:#eceae4}.chart .axis{stroke:#b9bcbe}
.chart .tick{font-size:12.5px;fill:#5b6873}
.scroll{overflow-x:auto}
.box{margin:14px 0 18px;background:var(--card);border:1px solid var(--line);border-radius:12px}
table{border-collapse:collapse;width:100%;font-size:.92rem}
.box>p{max-width:none;margin:0;padding:10px 14px 2px;color:var(--soft);font-size:.86rem}
th,td{padding:8px 14px;text-align:right;vertical-align:top;border-top:1px solid var(--line);white-space:nowrap}
thead th{border-top:0;color:var(--soft);font-weight:600;vertical-align:bottom;white-space:normal}
th:first-child{text-align:left;font-weight:600}tbody th{white-space:normal;min-width:118px}.tight th{white-space:nowrap}
.tight td,.tight th{padding-top:5px;padding-bottom:5px}.tight .bar{display:inline-block;margin:0 0 3px 9px}
td small{font-size:.76rem}th small{font-weight:400}
.bar{display:block;position:relative;height:5px;width:96px;margin:4px 0 1px auto;border-radius:3px;background:#eeece6}
.bar i{position:absolute;left:0;top:0;bottom:0;border-radius:3px;background:#7fb4cb}
.bar b{position:absolute;top:1.5px;height:2px;background:#1f2a33;opacity:.6}
.none{color:#a8aeb3}
img{display:block;border-radius:8px;width:100%;height:auto}
img.sharp{image-rendering:pixelated}
.strip{display:grid;grid-template-columns:repeat(auto-fill,minmax(112px,1fr));gap:12px;margin:22px 0 6px}
.strip div{font-size:.82rem;line-height:1.35}
.strip img{margin-bottom:6px}.strip .verdict{display:table;margin:4px 0 0}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(92px,1fr));gap:12px;margin:14px 0 18px}
.pairs div{font-size:.76rem;line-height:1.3;color:var(--soft)}
.pairs img{margin-bottom:4px}
.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:14px}
.sample{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px;break-inside:avoid}
.sample>p{font-weight:600;margin:0 0 10px;line-height:1.35}
.two{display:grid;grid-template-columns:1fr 1fr;gap:14px}
.candidate .label{margin-bottom:6px;font-size:.8rem}.candidate .label b{display:block;color:var(--ink)}
.verdict{display:inline-block;margin:7px 0 3px;padding:1px 9px;border-radius:99px;font-size:.82rem;font-weight:600}
.right{color:var(--right)}.wrong{color:var(--wrong)}
.verdict.right{background:var(--right-bg)}.verdict.wrong{background:var(--wrong-bg)}
.marks{list-style:none;margin:2px 0 0;padding:0;font-size:.82rem;line-height:1.45}
.marks li{position:relative;padding-left:1.3em}
.marks b{position:absolute;left:0}
.marks em{font-style:normal;opacity:.85}
ul.plain{padding-left:1.2em;max-width:74ch}ul.plain li{margin:.35em 0}
pre{background:#f1efe9;border-radius:10px;padding:12px 14px;overflow-x:auto;font:13px/1.5 ui-monospace,SFMono-Regular,
Menlo,Consolas,monospace}
details summary{cursor:pointer;color:var(--accent);margin:8px 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;font-size:.94rem}
dt{color:var(--soft)}dd{margin:0}
footer{padding-top:24px;padding-bottom:48px;color:var(--soft);font-size:.86rem}
@media (max-width:520px){
main,header,footer{padding-left:14px;padding-right:14px}th,td{padding:7px 10px}tbody th{max-width:150px}
.cards{grid-template-columns:1fr 1fr}.card{padding:11px 13px}.card strong{font-size:1.25rem}.two{gap:10px}
.strip{grid-template-columns:repeat(3,1fr)}.strip div:nth-child(n+10){display:none}
.pairs{grid-template-columns:repeat(4,1fr)}dl{grid-template-columns:1fr}dd{margin-bottom:6px}}
@media print{body{background:#fff;font-size:11pt}nav{display:none}section{break-inside:auto}figure,.card,tr,.sample
{break-inside:avoid}.scroll{overflow:visible}*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""
